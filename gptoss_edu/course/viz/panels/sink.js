// Two keys and a sink share one softmax. Chapter 03.
function draw(data, values) {
  const names = ["key 0", "key 1", "sink"], scores = [values["score of key 0"], values["score of key 1"], values.sink];
  const most = Math.max(...scores), exps = scores.map(score => Math.exp(score - most));
  const total = exps.reduce((sum, exp) => sum + exp), shares = exps.map(exp => exp / total);
  const rows = shares.map((share, i) => [
    label(10, 34 + 50 * i, names[i]),
    rect(80, 15 + 50 * i, 480, 28, PALE),
    rect(80, 15 + 50 * i, 480 * share, 28, i < 2 ? BLUE : ORANGE),
    label(570, 34 + 50 * i, `exp(${scores[i]}) / sum = ${share.toFixed(3)}`),
  ]);
  return {
    picture: svg(760, 165, rows),
    text: `The keys receive ${(1 - shares[2]).toFixed(3)} of the weight; ${shares[2].toFixed(3)} goes to the sink, which has no value to add.`,
  };
}
