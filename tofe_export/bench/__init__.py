"""Latency that people can trust: paired runs, intervals, and a verdict that may be "too noisy".

pairs       which variant is compared with which
sides       opening both, and what they are fed
timing      the time of one run: by the clock, or by CUDA's events
rounds      all sides in turn, in a random order, until there is enough
statistics  medians, percentiles, the ratio and its interval
comparison  one pair measured, and what may be claimed of it
alone       the same side by itself in a fresh process
machine     what was measured on, and in which state it was
document    the JSON that is kept, and when two of them may be compared
layers      where a run's time goes: modules, graph_file, layers_onnxruntime, layers_tensorrt
plot        latency against MACs
"""
