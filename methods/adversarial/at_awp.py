"""Adversarial training with adversarial weight perturbation (Wu et al., 2020)."""

from __future__ import annotations

from harness.config import merge
from harness.method import Method, MethodCard
from methods._recipes import SMALL, Overrides, by_dataset, uniform_start
from methods.adversarial._papers import AWP
from methods.adversarial.pgd_at import PgdAtParams, PgdAtTask


def _training(dataset: str) -> Overrides:
    gamma = 0.005 if dataset in SMALL else 0.01
    perturbation = {"gamma": gamma, "start_epoch": 1}
    return merge(uniform_start(dataset), {"training": {"weight_perturbation": perturbation}})


METHOD = Method(
    card=MethodCard(
        title="AT-AWP",
        family="adversarial",
        summary="PGD adversarial training at weights that are themselves perturbed to raise its "
        "loss.",
        formula=(
            r"\max_{\|v_l\| \le \gamma \|w_l\|} \; \max_{\|x_n - x\|_\infty \le \epsilon} "
            r"\mathrm{CE}(o_n, y) \quad \text{at weights } w + v"
        ),
        paper=AWP.line,
        url=AWP.url,
        tables=(2,),
        notes=(
            "Row AWP of Table 2 (CIFAR-100) is this method; row AWP of Table 4 (CIFAR-10) is "
            "trades-awp.",
            "gamma is a setting of the training, 0.01 from the first epoch on as released.",
            "The released training chooses the epoch by robust accuracy on the test images; the "
            "CIFAR recipes choose it on 1,000 held-out training images.",
            "The released CIFAR-100 images are rotated by up to 15 degrees and the CIFAR-10 crop "
            "pads by reflection; here crops pad with zeros and nothing is rotated.",
        ),
        bibtex=AWP.bibtex,
    ),
    params=PgdAtParams,
    task=PgdAtTask,
    recipes=by_dataset(_training),
)
