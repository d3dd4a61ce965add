"""What a chip can hold, how fast it can be, and one model on many of them.

Read precision and fit (bytes and a roofline), preflight (the verdict), sharding; then hlo and tpu,
which ask compiled programs and the real TPU compiler.
"""
