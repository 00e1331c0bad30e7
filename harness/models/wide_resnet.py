"""Wide residual networks, ``wrn-DEPTH-WIDTH``.

Source: Zagoruyko and Komodakis, "Wide residual networks", BMVC 2016, without dropout, as used in
the literature on distillation and adversarial training.

``-silu`` is the variant of Gowal et al., "Uncovering the limits of adversarial training against
norm-bounded adversarial examples", 2020, on which work with generated data builds. It differs in:

* the activation: SiLU, which is smooth;
* the padding of 3x3 convolutions of stride 2: only at the end of each side, the "SAME" padding of
  the framework in which the first such networks were trained, which their weights require;
* BatchNorm's momentum: 0.01 instead of 0.1, as in the released training code. (That code also sets
  it to 1 for the very first step; here the initial statistics decay instead.)
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from torch import nn
from torch.nn.functional import silu

from harness.models.features import initialize_convolutions
from harness.models.preact_resnet import PreActResNet


class WideResNet(PreActResNet):
    """A stem of 16 channels and three pre-activation stages of 16k, 32k and 64k channels."""

    published_names: ClassVar = {
        r"^block1\.layer\.": "stages.0.",
        r"^block2\.layer\.": "stages.1.",
        r"^block3\.layer\.": "stages.2.",
        r"\.convShortcut\.": ".shortcut.",
        r"^bn1\.": "bn.",
        r"^layer\.(\d)\.block\.": r"stages.\1.",
        r"\.batchnorm_0\.": ".bn1.",
        r"\.batchnorm_1\.": ".bn2.",
        r"\.conv_0\.": ".conv1.",
        r"\.conv_1\.": ".conv2.",
        r"^init_conv\.": "conv1.",
        r"^batchnorm\.": "bn.",
        r"^logits\.": "fc.",
    }
    # Released adversarial-training code defines a block that it never calls.
    unused_names: ClassVar = (r"^sub_block1\.",)

    def __init__(self, *args: Any, depth: int, width: int, **options: Any) -> None:
        """Build and initialise.

        Args:
            *args: positional arguments of ``PreActResNet``.
            depth: number of weighted layers, 6n + 4 for n blocks in each stage.
            width: the factor k of the stages' channels.
            **options: ``activation``, ``norm`` and ``same_padding`` of ``PreActResNet``.
        """
        channels = (16, 16 * width, 32 * width, 64 * width)
        super().__init__(*args, blocks=(depth - 4) // 6, channels=channels, **options)
        initialize_convolutions(self)
        nn.init.zeros_(self.fc.bias)


silu_wide_resnet = partial(
    WideResNet, activation=silu, norm=partial(nn.BatchNorm2d, momentum=0.01), same_padding=True
)

wrn_16_1 = partial(WideResNet, depth=16, width=1)
wrn_16_2 = partial(WideResNet, depth=16, width=2)
wrn_16_4 = partial(WideResNet, depth=16, width=4)
wrn_40_1 = partial(WideResNet, depth=40, width=1)
wrn_40_2 = partial(WideResNet, depth=40, width=2)
wrn_28_10 = partial(WideResNet, depth=28, width=10)
wrn_34_10 = partial(WideResNet, depth=34, width=10)
wrn_34_20 = partial(WideResNet, depth=34, width=20)
wrn_28_10_silu = partial(silu_wide_resnet, depth=28, width=10)
