"""Paper, ink, and the colors of Okabe and Ito, which color-blind people can tell apart."""

PAPER, INK, PALE, LINE = "#fcfbf8", "#1f1f1f", "#e9e6df", "#8a867d"
BLUE, SKY, ORANGE, VERMILION = "#0072b2", "#56b4e9", "#e69f00", "#d55e00"
GREEN, PINK = "#009e73", "#cc79a7"
# The colors of `Reply`; white and black text are both readable on the tints.
TINTS = {"analysis": "#d9d0f2", "commentary": "#f3dcb5", "final": "#c3e6cf", None: PALE}
ANSI = {"analysis": "\x1b[35m", "commentary": "\x1b[33m", "final": "\x1b[32m"}
RESET = "\x1b[0m"
