"""Does a graph on this runtime still say what the model said in PyTorch? Answered with numpy alone.

A bundle carries a reference: input images with PyTorch's output, the selectors' scores and the kept sets.
`verify` runs each variant on those images and compares. After a TopK an element-wise comparison means little:
a score that moves by one rounding error swaps two tokens and moves the logits by a hundredth of their range.
So every claim is made where it is sharp:

    limits         how much rounding each precision may show
    compare        two outputs, image by image
    sets           two kept sets, and whether the margin at the cut explains their difference
    case           what a variant is expected to do: manifest and reference joined
    observe        run a graph and bring what it reports into spatial order
    replay         run the probe along another path of kept sets
    runs           everything that is run for one variant
    checks         the named checks of one variant
    diagnose       what went wrong and where (explain_graph, explain_stage, on symptoms and experiments)
    variant        one variant: runs, checks, diagnosis
    preprocessing  the stored source pixels against the stored images
    views          PyTorch, ONNX Runtime and an engine side by side: whose fault is it
    engines        what is particular about judging TensorRT engines
    run            a whole bundle: the entry point, `verify_bundle`
    report         the result for people (text) and machines (JSON)
    accuracy       agreement with labels, which is another question than parity
"""
