"""The papers that measures, tests and baselines come from, as BibTeX and as short names with links."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterable

import jaxweights


@dataclasses.dataclass(frozen=True)
class Reference:
    """A source.

    Attributes:
      short: authors and year as in running text.
      title, authors, year, venue: as in the publication; authors in BibTeX's form.
      arxiv: its number on arXiv; empty for none.
      kind: BibTeX's type of entry.
      volume, pages: of an article.
    """

    short: str
    title: str
    authors: str
    year: int
    venue: str
    arxiv: str = ""
    kind: str = "inproceedings"
    volume: str = ""
    pages: str = ""

    @property
    def link(self) -> str:
        """The short name as HTML, a link where there is one."""
        text = html.escape(self.short)
        return f'<a href="https://arxiv.org/abs/{self.arxiv}">{text}</a>' if self.arxiv else text

    def bibtex(self, key: str) -> str:
        """The entry of that key."""
        where = {"inproceedings": "booktitle", "article": "journal", "misc": "howpublished"}[self.kind]
        fields = {"title": f"{{{self.title}}}", "author": self.authors, where: self.venue, "volume": self.volume}
        fields |= {"pages": self.pages, "year": str(self.year)}
        if self.arxiv:
            fields |= {"eprint": self.arxiv, "archivePrefix": "arXiv"}
        lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
        return "\n".join([f"@{self.kind}{{{key},", *lines, "}"])


_NEURIPS, _ICML = "Advances in Neural Information Processing Systems", "International Conference on Machine Learning"
_ICLR = "International Conference on Learning Representations"

REFERENCES = {
    "jaxweights": Reference(
        "jaxweights",
        "jaxweights: zoos of networks trained in bulk, generators of their weights, and an audit of what they remember",
        "{The jaxweights maintainers}",
        2026,
        f"Version {jaxweights.__version__}",
        kind="misc",
    ),
    "zeng2025": Reference(
        "Zeng et al. 2025",
        "Generative Modeling of Weights: Generalization or Memorization?",
        "Zeng, Boya and Yin, Yida and Xu, Zhiqiu and Liu, Zhuang",
        2025,
        "arXiv preprint",
        "2506.07998",
        "article",
    ),
    "meehan2020": Reference(
        "Meehan et al. 2020",
        "A Non-Parametric Test to Detect Data-Copying in Generative Models",
        "Meehan, Casey and Chaudhuri, Kamalika and Dasgupta, Sanjoy",
        2020,
        "International Conference on Artificial Intelligence and Statistics",
        "2004.05675",
    ),
    "mann1947": Reference(
        "Mann and Whitney 1947",
        "On a Test of Whether One of Two Random Variables is Stochastically Larger than the Other",
        "Mann, Henry B. and Whitney, Donald R.",
        1947,
        "The Annals of Mathematical Statistics",
        kind="article",
        volume="18",
        pages="50--60",
    ),
    "alaa2022": Reference(
        "Alaa et al. 2022",
        "How Faithful is your Synthetic Data? Sample-level Metrics for Evaluating and Auditing Generative Models",
        "Alaa, Ahmed M. and van Breugel, Boris and Saveliev, Evgeny and van der Schaar, Mihaela",
        2022,
        _ICML,
        "2102.08921",
    ),
    "yoon2023": Reference(
        "Yoon et al. 2023",
        "Diffusion Probabilistic Models Generalize when They Fail to Memorize",
        "Yoon, TaeHo and Choi, Joo Young and Kwon, Sehyun and Ryu, Ernest K.",
        2023,
        "ICML Workshop on Structured Probabilistic Inference and Generative Modeling",
    ),
    "gu2023": Reference(
        "Gu et al. 2023",
        "On Memorization in Diffusion Models",
        "Gu, Xiangming and Du, Chao and Pang, Tianyu and Li, Chongxuan and Lin, Min and Wang, Ye",
        2023,
        "arXiv preprint",
        "2310.02664",
        "article",
    ),
    "carlini2023": Reference(
        "Carlini et al. 2023",
        "Extracting Training Data from Diffusion Models",
        r"Carlini, Nicholas and Hayes, Jamie and Nasr, Milad and Jagielski, Matthew and Sehwag, Vikash and "
        r"Tram{\`e}r, Florian and Balle, Borja and Ippolito, Daphne and Wallace, Eric",
        2023,
        "USENIX Security Symposium",
        "2301.13188",
    ),
    "kynkaanniemi2019": Reference(
        "Kynk\u00e4\u00e4nniemi et al. 2019",
        "Improved Precision and Recall Metric for Assessing Generative Models",
        r"Kynk{\"a}{\"a}nniemi, Tuomas and Karras, Tero and Laine, Samuli and Lehtinen, Jaakko and Aila, Timo",
        2019,
        _NEURIPS,
        "1904.06991",
    ),
    "naeem2020": Reference(
        "Naeem et al. 2020",
        "Reliable Fidelity and Diversity Metrics for Generative Models",
        "Naeem, Muhammad Ferjad and Oh, Seong Joon and Uh, Youngjung and Choi, Yunjey and Yoo, Jaejun",
        2020,
        _ICML,
        "2002.09797",
    ),
    "jiralerspong2023": Reference(
        "Jiralerspong et al. 2023",
        "Feature Likelihood Divergence: Evaluating the Generalization of Generative Models Using Samples",
        "Jiralerspong, Marco and Bose, Avishek Joey and Gemp, Ian and Qin, Chongli and Bachrach, Yoram and "
        "Gidel, Gauthier",
        2023,
        _NEURIPS,
        "2302.04440",
    ),
    "friedman2023": Reference(
        "Friedman and Dieng 2023",
        "The Vendi Score: A Diversity Evaluation Metric for Machine Learning",
        "Friedman, Dan and Dieng, Adji Bousso",
        2023,
        "Transactions on Machine Learning Research",
        "2210.02410",
        "article",
    ),
    "gretton2012": Reference(
        "Gretton et al. 2012",
        "A Kernel Two-Sample Test",
        r"Gretton, Arthur and Borgwardt, Karsten M. and Rasch, Malte J. and Sch{\"o}lkopf, Bernhard and "
        "Smola, Alexander",
        2012,
        "Journal of Machine Learning Research",
        kind="article",
        volume="13",
        pages="723--773",
    ),
    "lopezpaz2017": Reference(
        "Lopez-Paz and Oquab 2017",
        "Revisiting Classifier Two-Sample Tests",
        "Lopez-Paz, David and Oquab, Maxime",
        2017,
        _ICLR,
        "1610.06545",
    ),
    "facco2017": Reference(
        "Facco et al. 2017",
        "Estimating the Intrinsic Dimension of Datasets by a Minimal Neighborhood Information",
        "Facco, Elena and d'Errico, Maria and Rodriguez, Alex and Laio, Alessandro",
        2017,
        "Scientific Reports",
        kind="article",
        volume="7",
        pages="12140",
    ),
    "levina2004": Reference(
        "Levina and Bickel 2004",
        "Maximum Likelihood Estimation of Intrinsic Dimension",
        "Levina, Elizaveta and Bickel, Peter J.",
        2004,
        _NEURIPS,
    ),
    "ainsworth2023": Reference(
        "Ainsworth et al. 2023",
        "Git Re-Basin: Merging Models modulo Permutation Symmetries",
        "Ainsworth, Samuel K. and Hayase, Jonathan and Srinivasa, Siddhartha",
        2023,
        _ICLR,
        "2209.04836",
    ),
    "stock2019": Reference(
        "Stock et al. 2019",
        "Equi-normalization of Neural Networks",
        r"Stock, Pierre and Graham, Benjamin and Gribonval, R{\'e}mi and J{\'e}gou, Herv{\'e}",
        2019,
        _ICLR,
        "1902.10416",
    ),
    "frankle2020": Reference(
        "Frankle et al. 2020",
        "Linear Mode Connectivity and the Lottery Ticket Hypothesis",
        "Frankle, Jonathan and Dziugaite, Gintare Karolina and Roy, Daniel M. and Carbin, Michael",
        2020,
        _ICML,
        "1912.05671",
    ),
    "fort2019": Reference(
        "Fort et al. 2019",
        "Deep Ensembles: A Loss Landscape Perspective",
        "Fort, Stanislav and Hu, Huiyi and Lakshminarayanan, Balaji",
        2019,
        "arXiv preprint",
        "1912.02757",
        "article",
    ),
    "wortsman2022": Reference(
        "Wortsman et al. 2022",
        "Model Soups: Averaging Weights of Multiple Fine-Tuned Models Improves Accuracy without Increasing Inference "
        "Time",
        "Wortsman, Mitchell and Ilharco, Gabriel and Gadre, Samir Ya and Roelofs, Rebecca and Gontijo-Lopes, Raphael "
        "and Morcos, Ari S. and Namkoong, Hongseok and Farhadi, Ali and Carmon, Yair and Kornblith, Simon and "
        "Schmidt, Ludwig",
        2022,
        _ICML,
        "2203.05482",
    ),
    "clopper1934": Reference(
        "Clopper and Pearson 1934",
        "The Use of Confidence or Fiducial Limits Illustrated in the Case of the Binomial",
        "Clopper, C. J. and Pearson, E. S.",
        1934,
        "Biometrika",
        kind="article",
        volume="26",
        pages="404--413",
    ),
    "efron1979": Reference(
        "Efron 1979",
        "Bootstrap Methods: Another Look at the Jackknife",
        "Efron, Bradley",
        1979,
        "The Annals of Statistics",
        kind="article",
        volume="7",
        pages="1--26",
    ),
}
"""By BibTeX key."""


def bibtex(keys: Iterable[str]) -> str:
    """The entries of some keys, in the order of `REFERENCES`."""
    wanted = set(keys)
    return "\n\n".join(reference.bibtex(key) for key, reference in REFERENCES.items() if key in wanted) + "\n"
