"""Papers that several cards cite."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """A citation: the line that a card prints, where the paper is, and its BibTeX entry."""

    line: str
    url: str
    bibtex: str


DKL = Paper(
    line="Cui, Tian, Zhong, Qi, Yu, Zhang: Decoupled Kullback-Leibler Divergence Loss, NeurIPS "
    "2024",
    url="https://arxiv.org/abs/2305.13948",
    bibtex="""@inproceedings{cui2024decoupled,
  title = {Decoupled {Kullback-Leibler} Divergence Loss},
  author = {Cui, Jiequan and Tian, Zhuotao and Zhong, Zhisheng and Qi, Xiaojuan and Yu, Bei and
            Zhang, Hanwang},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2024}
}""",
)

GKL = Paper(
    line="Cui, Zhu, Xu, Tian, Qi, Yu, Zhang, Hong: Generalized Kullback-Leibler Divergence Loss, "
    "2025",
    url="https://arxiv.org/abs/2503.08038",
    bibtex="""@article{cui2025generalized,
  title = {Generalized {Kullback-Leibler} Divergence Loss},
  author = {Cui, Jiequan and Zhu, Beier and Xu, Qingshan and Tian, Zhuotao and Qi, Xiaojuan and
            Yu, Bei and Zhang, Hanwang and Hong, Richang},
  journal = {arXiv preprint arXiv:2503.08038},
  year = {2025}
}""",
)

TRADES = Paper(
    line="Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan: Theoretically Principled Trade-off between "
    "Robustness and Accuracy, ICML 2019",
    url="https://arxiv.org/abs/1901.08573",
    bibtex="""@inproceedings{zhang2019theoretically,
  title = {Theoretically Principled Trade-off between Robustness and Accuracy},
  author = {Zhang, Hongyang and Yu, Yaodong and Jiao, Jiantao and Xing, Eric and El Ghaoui, Laurent
            and Jordan, Michael},
  booktitle = {International Conference on Machine Learning},
  year = {2019}
}""",
)

AWP = Paper(
    line="Wu, Xia, Wang: Adversarial Weight Perturbation Helps Robust Generalization, NeurIPS 2020",
    url="https://arxiv.org/abs/2004.05884",
    bibtex="""@inproceedings{wu2020adversarial,
  title = {Adversarial Weight Perturbation Helps Robust Generalization},
  author = {Wu, Dongxian and Xia, Shu-Tao and Wang, Yisen},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2020}
}""",
)

LAS = Paper(
    line="Jia, Zhang, Wu, Ma, Wang, Cao: LAS-AT: Adversarial Training with Learnable Attack "
    "Strategy, CVPR 2022",
    url="https://arxiv.org/abs/2203.06616",
    bibtex="""@inproceedings{jia2022las,
  title = {{LAS-AT}: Adversarial Training with Learnable Attack Strategy},
  author = {Jia, Xiaojun and Zhang, Yong and Wu, Baoyuan and Ma, Ke and Wang, Jue and
            Cao, Xiaochun},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year = {2022}
}""",
)

ACAT = Paper(
    line="Addepalli, Jain, Babu: Efficient and Effective Augmentation Strategy for Adversarial "
    "Training, NeurIPS 2022",
    url="https://arxiv.org/abs/2210.15318",
    bibtex="""@inproceedings{addepalli2022efficient,
  title = {Efficient and Effective Augmentation Strategy for Adversarial Training},
  author = {Addepalli, Sravanti and Jain, Samyak and Babu, R. Venkatesh},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2022}
}""",
)
