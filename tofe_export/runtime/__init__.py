"""Runtimes behind one interface: `Session.open(bundle).infer({"images": array})`, whatever runs the graph.

Import `tofe_export.runtime.session`; the runtimes themselves are imported when a session is opened, since
each needs a package that a device may not have.
"""
