"""The command line, one file a command: `python -m gptoss_edu COMMAND`; and a borrowed machine.

Read cli (commands and their options), then what each one calls: doctor; colab for chapter 09.
"""
