"""Does a graph on this runtime still say what the model said in PyTorch? Answered with numpy alone.

A bundle carries a reference: input images with PyTorch's output, the selectors' scores and the kept sets.
`verify` runs each variant on those images and compares. After a TopK an element-wise comparison means little:
a score that moves by one rounding error swaps two tokens and moves the logits by a hundredth of their range.
So every claim is made where it is sharp:

    limits         how much rounding each precision may show
    compare        two outputs, image by image
    sets           two kept sets, and whether the margin at the cut explains their difference
    observe        run a graph and bring what it reports into spatial order
    replay         run the probe graph along another path of kept sets
    checks         the named checks of one variant
    diagnose       what and where, for a variant that failed; never turns a fail into a pass
    variant        one variant: runs, checks, diagnosis
    preprocessing  the stored source pixels against the stored images
    run            a whole bundle
    report         the result for people (text) and machines (JSON)
    accuracy       agreement with labels, which is another question than parity
"""
