"""Latency against honest opponents: which they are, how their graphs are made, and how all take turns.

cases           models, budgets, batches, and who is measured against whom
sides, maker    one ONNX file per opponent, made once and kept
oracle          the same counts, and nothing spent on choosing
rivals/         DynamicViT, EViT, ToMe, IdleViT as graphs that do nothing in vain
turns           all sides of a case in turn, in one process
bare            the same files in a bare loop, each in its own process
run, report     the commands
"""
