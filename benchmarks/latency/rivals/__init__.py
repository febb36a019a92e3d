"""The neighbours as inference graphs: same weights and arithmetic as in `accuracy.rivals`, no work in vain.

Each is written for speed, since a weak opponent proves nothing: queries, keys and values by matrices of their
own with the scale folded in, rows by Gather on the flattened batch, sums by matrix products instead of
scatters, no sort longer than it must be, and nothing but the CLS token behind the last attention. Our own
passes then run over their graphs as they do over ours.
"""
