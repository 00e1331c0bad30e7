"""Papers on distillation that cards cite."""

from __future__ import annotations

from methods.adversarial._papers import Paper

HINTON = Paper(
    line="Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015",
    url="https://arxiv.org/abs/1503.02531",
    bibtex="""@article{hinton2015distilling,
  title = {Distilling the Knowledge in a Neural Network},
  author = {Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff},
  journal = {arXiv preprint arXiv:1503.02531},
  year = {2015}
}""",
)

DKD = Paper(
    line="Zhao, Cui, Song, Qiu, Liang: Decoupled Knowledge Distillation, CVPR 2022",
    url="https://arxiv.org/abs/2203.08679",
    bibtex="""@inproceedings{zhao2022decoupled,
  title = {Decoupled Knowledge Distillation},
  author = {Zhao, Borui and Cui, Quan and Song, Renjie and Qiu, Yiyu and Liang, Jiajun},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year = {2022}
}""",
)

FITNET = Paper(
    line="Romero, Ballas, Kahou, Chassang, Gatta, Bengio: FitNets: Hints for Thin Deep Nets, ICLR "
    "2015",
    url="https://arxiv.org/abs/1412.6550",
    bibtex="""@inproceedings{romero2015fitnets,
  title = {{FitNets}: Hints for Thin Deep Nets},
  author = {Romero, Adriana and Ballas, Nicolas and Kahou, Samira Ebrahimi and Chassang, Antoine
            and Gatta, Carlo and Bengio, Yoshua},
  booktitle = {International Conference on Learning Representations},
  year = {2015}
}""",
)

ATTENTION = Paper(
    line="Zagoruyko, Komodakis: Paying More Attention to Attention, ICLR 2017",
    url="https://arxiv.org/abs/1612.03928",
    bibtex="""@inproceedings{zagoruyko2017paying,
  title = {Paying More Attention to Attention: Improving the Performance of Convolutional Neural
           Networks via Attention Transfer},
  author = {Zagoruyko, Sergey and Komodakis, Nikos},
  booktitle = {International Conference on Learning Representations},
  year = {2017}
}""",
)

RKD = Paper(
    line="Park, Kim, Lu, Cho: Relational Knowledge Distillation, CVPR 2019",
    url="https://arxiv.org/abs/1904.05068",
    bibtex="""@inproceedings{park2019relational,
  title = {Relational Knowledge Distillation},
  author = {Park, Wonpyo and Kim, Dongju and Lu, Yan and Cho, Minsu},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year = {2019}
}""",
)

CRD = Paper(
    line="Tian, Krishnan, Isola: Contrastive Representation Distillation, ICLR 2020",
    url="https://arxiv.org/abs/1910.10699",
    bibtex="""@inproceedings{tian2020contrastive,
  title = {Contrastive Representation Distillation},
  author = {Tian, Yonglong and Krishnan, Dilip and Isola, Phillip},
  booktitle = {International Conference on Learning Representations},
  year = {2020}
}""",
)

OFD = Paper(
    line="Heo, Kim, Yun, Park, Kwak, Choi: A Comprehensive Overhaul of Feature Distillation, ICCV "
    "2019",
    url="https://arxiv.org/abs/1904.01866",
    bibtex="""@inproceedings{heo2019comprehensive,
  title = {A Comprehensive Overhaul of Feature Distillation},
  author = {Heo, Byeongho and Kim, Jeesoo and Yun, Sangdoo and Park, Hyojin and Kwak, Nojun and
            Choi, Jin Young},
  booktitle = {International Conference on Computer Vision},
  year = {2019}
}""",
)

REVIEW = Paper(
    line="Chen, Liu, Zhao, Jia: Distilling Knowledge via Knowledge Review, CVPR 2021",
    url="https://arxiv.org/abs/2104.09044",
    bibtex="""@inproceedings{chen2021distilling,
  title = {Distilling Knowledge via Knowledge Review},
  author = {Chen, Pengguang and Liu, Shu and Zhao, Hengshuang and Jia, Jiaya},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year = {2021}
}""",
)
