"""Makes rank 1 run out of memory, by torch's own allocator, in a forward pass of more than MOST_SAMPLES samples."""

import importlib.abc
import importlib.machinery
import os
import sys

MODULE = "kubooth_trainer.methods.dreambooth"


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):  # type: ignore[no-untyped-def]
        if name != MODULE or os.environ.get("RANK") != "1":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def exec_module(module):  # type: ignore[no-untyped-def]
            load(module)
            forward = module.Trainee.forward

            def greedy(self, noisy, *arguments):  # type: ignore[no-untyped-def]
                if noisy.device.type != "meta" and noisy.shape[0] > int(os.environ["MOST_SAMPLES"]):
                    noisy.new_empty(1 << 56)
                return forward(self, noisy, *arguments)

            module.Trainee.forward = greedy

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Finder())
