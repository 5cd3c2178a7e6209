"""The lines that a run writes about itself, as types, with the reader and the writer of each. Standard library only."""
