"""The works that a report can cite, and how it cites them: `[key]` or `[key, key]` in its prose."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """A cited work: how it is named in the text, in the list, and where it is found."""

    short: str
    full: str
    url: str


REFERENCES = {
    "xing2024": Reference(
        "Xing et al. 2024",
        "Xing X, Ning J, Nan Y, Yang G. Deep generative models unveil patterns in medical images "
        "through vision-language conditioning. 2024.",
        "https://arxiv.org/abs/2410.13823",
    ),
    "lipman2023": Reference(
        "Lipman et al. 2023",
        "Lipman Y, Chen RTQ, Ben-Hamu H, Nickel M, Le M. Flow matching for generative modeling. "
        "ICLR 2023.",
        "https://arxiv.org/abs/2210.02747",
    ),
    "karras2022": Reference(
        "Karras et al. 2022",
        "Karras T, Aittala M, Aila T, Laine S. Elucidating the design space of diffusion-based "
        "generative models. NeurIPS 2022.",
        "https://arxiv.org/abs/2206.00364",
    ),
    "ho2020": Reference(
        "Ho et al. 2020",
        "Ho J, Jain A, Abbeel P. Denoising diffusion probabilistic models. NeurIPS 2020.",
        "https://arxiv.org/abs/2006.11239",
    ),
    "song2021": Reference(
        "Song et al. 2021",
        "Song J, Meng C, Ermon S. Denoising diffusion implicit models. ICLR 2021.",
        "https://arxiv.org/abs/2010.02502",
    ),
    "lu2022": Reference(
        "Lu et al. 2022",
        "Lu C, Zhou Y, Bao F, Chen J, Li C, Zhu J. DPM-Solver++: fast solver for guided sampling "
        "of diffusion probabilistic models. 2022.",
        "https://arxiv.org/abs/2211.01095",
    ),
    "friedrich2024": Reference(
        "Friedrich et al. 2024",
        "Friedrich P, Wolleb J, Bieder F, Durrer A, Cattin PC. WDM: 3D wavelet diffusion models "
        "for high-resolution medical image synthesis. DGM4MICCAI 2024.",
        "https://arxiv.org/abs/2402.19043",
    ),
    "mackay1992": Reference(
        "MacKay 1992",
        "MacKay DJC. Bayesian interpolation. Neural Computation 4:415-447, 1992.",
        "https://doi.org/10.1162/neco.1992.4.3.415",
    ),
    "vaswani2017": Reference(
        "Vaswani et al. 2017",
        "Vaswani A, Shazeer N, Parmar N, et al. Attention is all you need. NeurIPS 2017.",
        "https://arxiv.org/abs/1706.03762",
    ),
    "perez2018": Reference(
        "Perez et al. 2018",
        "Perez E, Strub F, de Vries H, Dumoulin V, Courville A. FiLM: visual reasoning with a "
        "general conditioning layer. AAAI 2018.",
        "https://arxiv.org/abs/1709.07871",
    ),
    "wang2020": Reference(
        "Wang et al. 2020",
        "Wang W, Wei F, Dong L, Bao H, Yang N, Zhou M. MiniLM: deep self-attention distillation "
        "for task-agnostic compression of pre-trained transformers. NeurIPS 2020.",
        "https://arxiv.org/abs/2002.10957",
    ),
    "robins1994": Reference(
        "Robins et al. 1994",
        "Robins JM, Rotnitzky A, Zhao LP. Estimation of regression coefficients when some "
        "regressors are not always observed. J Am Stat Assoc 1994; 89: 846-866.",
        "https://doi.org/10.1080/01621459.1994.10476818",
    ),
    "robinson1988": Reference(
        "Robinson 1988",
        "Robinson PM. Root-N-consistent semiparametric regression. Econometrica 1988; 56: 931-954.",
        "https://doi.org/10.2307/1912705",
    ),
    "chernozhukov2018": Reference(
        "Chernozhukov et al. 2018",
        "Chernozhukov V, Chetverikov D, Demirer M, Duflo E, Hansen C, Newey W, Robins J. "
        "Double/debiased machine learning for treatment and structural parameters. "
        "Econom J 2018; 21: C1-C68.",
        "https://doi.org/10.1111/ectj.12097",
    ),
    "li2018": Reference(
        "Li et al. 2018",
        "Li F, Morgan KL, Zaslavsky AM. Balancing covariates via propensity score weighting. "
        "J Am Stat Assoc 2018; 113: 390-400.",
        "https://doi.org/10.1080/01621459.2016.1260466",
    ),
    "benjamini1995": Reference(
        "Benjamini and Hochberg 1995",
        "Benjamini Y, Hochberg Y. Controlling the false discovery rate: a practical and powerful "
        "approach to multiple testing. J R Stat Soc B 1995; 57: 289-300.",
        "https://doi.org/10.1111/j.2517-6161.1995.tb02031.x",
    ),
    "nichols2002": Reference(
        "Nichols and Holmes 2002",
        "Nichols TE, Holmes AP. Nonparametric permutation tests for functional neuroimaging: a "
        "primer with examples. Hum Brain Mapp 2002; 15: 1-25.",
        "https://doi.org/10.1002/hbm.1058",
    ),
    "smith2009": Reference(
        "Smith and Nichols 2009",
        "Smith SM, Nichols TE. Threshold-free cluster enhancement: addressing problems of "
        "smoothing, threshold dependence and localisation in cluster inference. "
        "NeuroImage 2009; 44: 83-98.",
        "https://doi.org/10.1016/j.neuroimage.2008.03.061",
    ),
    "winkler2014": Reference(
        "Winkler et al. 2014",
        "Winkler AM, Ridgway GR, Webster MA, Smith SM, Nichols TE. Permutation inference for the "
        "general linear model. NeuroImage 2014; 92: 381-397.",
        "https://doi.org/10.1016/j.neuroimage.2014.01.060",
    ),
    "diciccio2017": Reference(
        "DiCiccio and Romano 2017",
        "DiCiccio CJ, Romano JP. Robust permutation tests for correlation and regression "
        "coefficients. J Am Stat Assoc 2017; 112: 1211-1220.",
        "https://doi.org/10.1080/01621459.2016.1202117",
    ),
    "mackinnon1985": Reference(
        "MacKinnon and White 1985",
        "MacKinnon JG, White H. Some heteroskedasticity-consistent covariance matrix estimators "
        "with improved finite sample properties. J Econom 1985; 29: 305-325.",
        "https://doi.org/10.1016/0304-4076(85)90158-7",
    ),
}

_KEY = "|".join(REFERENCES)
_CITATION = re.compile(rf"\[((?:{_KEY})(?:, (?:{_KEY}))*)\]")


def cited(paragraphs: Iterable[tuple[str, str]]) -> list[str]:
    """Keys of the references in the order in which they are first cited."""
    found = _CITATION.findall(" ".join(text for _, text in paragraphs))
    return list(dict.fromkeys(key for group in found for key in group.split(", ")))


def cite(text: str, form: Callable[[list[str]], str]) -> str:
    """Replace each citation by what `form` makes of its keys."""
    return _CITATION.sub(lambda match: form(match[1].split(", ")), text)
