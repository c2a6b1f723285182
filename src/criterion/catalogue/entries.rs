//! The entries of the catalogue. Weights and settings are stated where recipes read them.

use super::{Entry, Pairs, Stored};

const REPDISTILLER: &str = "RepDistiller";
const NST_PAPER: &str = "Huang & Wang 2017, arXiv:1707.01219";

/// What most entries share: feature maps after the activation at every stage, nothing learned.
const COMMON: Entry = Entry {
    name: "",
    title: "",
    paper: "",
    stored: &[Stored::Features],
    pre_activation: false,
    learnable: None,
    pairs: Pairs::All,
    source: REPDISTILLER,
    note: "",
};

/// The criteria, those of the logits first.
pub(super) static CATALOGUE: &[Entry] = &[
    Entry {
        name: "ce",
        title: "Cross-entropy with the labels",
        paper: "label smoothing: Szegedy et al. 2016, arXiv:1512.00567; mixup: Zhang et al. 2018, \
                arXiv:1710.09412",
        stored: &[],
        source: "PyTorch",
        ..COMMON
    },
    Entry {
        name: "kd",
        title: "Knowledge distillation",
        paper: "Hinton, Vinyals & Dean 2015, arXiv:1503.02531",
        stored: &[Stored::Logits],
        ..COMMON
    },
    Entry {
        name: "dkd",
        title: "Decoupled knowledge distillation",
        paper: "Zhao et al. 2022, arXiv:2203.08679",
        stored: &[Stored::Logits],
        source: "mdistiller",
        note: "beta is 1 to 8 by network pair; 20 epochs of warm-up; labels are needed; in log \
               space, so that logits of any size are finite",
        ..COMMON
    },
    Entry {
        name: "dist",
        title: "Distillation by correlation",
        paper: "Huang et al. 2022, arXiv:2205.10536",
        stored: &[Stored::Logits],
        source: "the authors' code",
        note: "on CIFAR-100 the authors take tau 4, beta 2, gamma 2",
        ..COMMON
    },
    Entry {
        name: "nst-linear",
        title: "Neuron selectivity transfer, linear kernel",
        paper: NST_PAPER,
        stored: &[Stored::Mean, Stored::Features],
        ..COMMON
    },
    Entry {
        name: "nst-poly",
        title: "Neuron selectivity transfer, polynomial kernel",
        paper: NST_PAPER,
        stored: &[Stored::Gram, Stored::Features],
        note: "the Gram matrix suffices at degree 2 and constant 0; with a constant the mean is \
               needed too",
        ..COMMON
    },
    Entry {
        name: "nst-gauss",
        title: "Neuron selectivity transfer, Gaussian kernel",
        paper: NST_PAPER,
        ..COMMON
    },
    Entry {
        name: "fitnet",
        title: "FitNets: hints",
        paper: "Romero et al. 2015, arXiv:1412.6550",
        learnable: Some("regressor"),
        pairs: Pairs::Middle,
        ..COMMON
    },
    Entry {
        name: "at",
        title: "Attention transfer",
        paper: "Zagoruyko & Komodakis 2017, arXiv:1612.03928",
        stored: &[Stored::Attention, Stored::Features],
        note: "the attention map suffices if it is taken at the common size",
        ..COMMON
    },
    Entry {
        name: "vid",
        title: "Variational information distillation",
        paper: "Ahn et al. 2019, arXiv:1904.05835",
        learnable: Some("regressor, variance by channel"),
        ..COMMON
    },
    Entry {
        name: "sp",
        title: "Similarity-preserving distillation",
        paper: "Tung & Mori 2019, arXiv:1907.09682",
        note: "compares samples of a batch with each other",
        pairs: Pairs::Deepest,
        ..COMMON
    },
    Entry {
        name: "cc",
        title: "Correlation congruence",
        paper: "Peng et al. 2019, arXiv:1904.01802",
        stored: &[Stored::Vector],
        learnable: Some("two linear embeddings"),
        note: "compares neighbours in the batch: their order matters",
        ..COMMON
    },
    Entry {
        name: "rkd",
        title: "Relational knowledge distillation",
        paper: "Park et al. 2019, arXiv:1904.05068",
        stored: &[Stored::Vector],
        note: "compares samples of a batch with each other",
        ..COMMON
    },
    Entry {
        name: "pkt",
        title: "Probabilistic knowledge transfer",
        paper: "Passalis & Tefas 2018, arXiv:1803.10837",
        stored: &[Stored::Vector],
        note: "compares samples of a batch with each other",
        ..COMMON
    },
    Entry {
        name: "crd",
        title: "Contrastive representation distillation",
        paper: "Tian, Krishnan & Isola 2020, arXiv:1910.10699",
        stored: &[Stored::Vector],
        learnable: Some("two linear embeddings; a memory bank"),
        note: "the memory bank takes 8 · width bytes a training sample",
        ..COMMON
    },
    Entry {
        name: "ab",
        title: "Activation boundaries",
        paper: "Heo et al. 2019, arXiv:1811.03233",
        pre_activation: true,
        learnable: Some("a connector a layer, where shapes differ"),
        note: "a stage of its own, before the student is trained with labels; a sum over positions",
        ..COMMON
    },
    Entry {
        name: "ft",
        title: "Factor transfer",
        paper: "Kim, Park & Kwak 2018, arXiv:1802.04977",
        learnable: Some("translator; paraphraser, trained first on the cached features"),
        pairs: Pairs::Deepest,
        ..COMMON
    },
    Entry {
        name: "fsp",
        title: "Flow of solution procedure",
        paper: "Yim et al. 2017, CVPR",
        note: "a stage of its own, before the student is trained with labels; teacher and student \
               need the same channels",
        ..COMMON
    },
    Entry {
        name: "ofd",
        title: "Overhaul of feature distillation",
        paper: "Heo et al. 2019, arXiv:1904.01866",
        pre_activation: true,
        learnable: Some("a connector a layer"),
        source: "mdistiller",
        note: "margins from the batch norm before the ReLU, else estimated from the maps; a sum \
               over positions",
        ..COMMON
    },
    Entry {
        name: "reviewkd",
        title: "Knowledge review",
        paper: "Chen et al. 2021, arXiv:2104.09044",
        pre_activation: true,
        learnable: Some("a fusion module a stage"),
        source: "mdistiller",
        note: "the weight is 0.6 to 8 by network pair, after 20 epochs of warm-up; reads the \
               vector before the classifier too; middle is at most the channels of the deepest \
               stage",
        ..COMMON
    },
    Entry {
        name: "gan",
        title: "Adversarial matching of feature distributions",
        paper: "Chung et al. 2020, arXiv:2002.01775, with the loss of Mao et al. 2017, \
                arXiv:1611.04076",
        learnable: Some("transfer layer, discriminator"),
        source: "ours",
        note: "the discriminator's widths are ours",
        pairs: Pairs::Deepest,
        ..COMMON
    },
];
