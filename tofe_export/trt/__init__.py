"""TensorRT engines: built on the device that runs them, with the TensorRT that is installed there.

    api         names for TensorRT's classes, so that every attribute this package touches can be checked
    compat      loading TensorRT, what this version can do, what is known to be wrong with it
    device      which GPU, which driver, which Jetson
    platform    the three together: where an engine is built and run
    log         TensorRT's own lines, collected; explain: what they mean and what to do
    request     which graph answers a request for a variant, and how it is typed
    network     the graph read by NVIDIA's parser; hold: layers kept in float32 by name (8.6)
    config      flags, memory, timing cache, profiles
    monitor     progress and Ctrl-C while TensorRT is at work
    builder     from a request to a plan and its sidecar
    inspect     what the engine says of its own precision, and the verdict
    sidecar     the facts beside a plan; plan: its bytes; engines: finding and refusing them

Needs the device floor only; `tensorrt` is imported by `compat.load` and nowhere else.
"""
