"""Checkpoints: whole or absent. The only code that knows their names.

    pieces.py        what lies on one rank, as one safetensors file in host memory; and back from any ranks' files
    store.py         the folder on disk: commit, verify, retention, setting aside; no network, no torch
    checkpoints.py   what all ranks do together: write in the background, commit, load the newest that is whole

A checkpoint holds the float32 weights, AdamW's moments and the averages, cut into pieces that carry their place. So it
can be read by any number of ranks and under any ZeRO stage, without a conversion in between.
"""
