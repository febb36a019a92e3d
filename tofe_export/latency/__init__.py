"""What a budget will cost on a device, before anything is trained: measured once, then read from a table.

A *ladder* is a bundle of one untrained model whose variants keep the same count K in every stage, at a dozen
counts, with the dense model beside them. Its graphs are those of a real export, so every rewrite is in them;
its weights are drawn, which latency does not see.

ladder   the ladder's graphs                                   host floor
measure  a ladder on a device: latency over K, against dense
table    the file that is kept, and whether it fits a model
predict  the latency of any keep counts
solve    keep counts for a latency
advise   what to expect of budgets, and whether it is worth it
"""
