"""From bytes to `Params` and back: the Hub, files, names, and the two ways to keep a model.

Read hub and fetch, shards, layout, reading, checkpoint; then mapped, drafts and convert
(weights on disk as they lie in memory), orbax, answers and verify.
"""
