"""The command line, one file a command: `python -m gptoss_edu COMMAND`; and a borrowed machine.

Read main (which commands there are, what becomes of errors), ask (with flags and terminal: what it
is told, how an answer is shown), then any other command; colab for chapter 09.
"""
