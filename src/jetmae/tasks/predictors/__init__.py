"""Simple predictions of hidden patch sums: what a network has to beat.

They know training jets, the visible sums of a jet, and no network. Every rank that fits them on the same jets gets the
same ones, so they need no collective.
"""
