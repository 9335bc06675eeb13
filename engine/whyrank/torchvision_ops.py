"""Let a CUDA build of torchvision be imported beside a CPU build of torch.

Why: the compiled half of such a torchvision cannot load. torchvision shrugs that off, and then registers shape rules
for two of its missing operators all the same, so that `import torchvision`, and with it much of transformers and vLLM,
fails with "operator torchvision::nms does not exist". Its Python half, which is all that vLLM's image processors
need, works once operators of those two names exist; calling one is still an error.

How: engine_install.py copies this module into the environment's site-packages with a .pth file that imports it, so it runs
in every process, spawned ones too. At start-up it only puts a finder on sys.meta_path. That finder finds nothing, ever: it
uses the moment at which torchvision has tried its compiled half and is about to register the shape rules. So there
is no torch import until somebody imports torchvision, and nothing is touched where the compiled half did load.
"""

import sys

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class DefineMissingOps:
    """A finder that leaves every module to the ordinary finders and acts on one name in passing."""

    library: object = None  # torch drops a library's operators with its Library object, so it is kept here

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name != "torchvision._meta_registrations" or self.library is not None:
            return
        extension = sys.modules.get("torchvision.extension")
        if extension is None or extension._has_ops():
            return
        import torch.library

        library = torch.library.Library("torchvision", "DEF")
        for schema in SCHEMAS:
            library.define(schema)
        self.library = library


sys.meta_path.insert(0, DefineMissingOps())
