//! The published figures and weights.

use super::{NetworkPair, Published, Suite};

const fn method(name: &'static str, criteria: &'static [&'static str]) -> Published {
    Published { name, criteria, first_stage: 0, spots: false }
}

/// A method that first trains the student alone for 30 epochs, and then continues with labels
/// alone.
const fn two_stages(name: &'static str, criteria: &'static [&'static str]) -> Published {
    Published { name, criteria, first_stage: 30, spots: false }
}

/// A method with a policy that chooses the spots.
const fn adaptive(name: &'static str, criteria: &'static [&'static str]) -> Published {
    Published { name, criteria, first_stage: 0, spots: true }
}

// for both columns of SAKD, from the configurations in its authors' code, which agree for all pairs
const FITNET: &[&str] = &["ce", "kd:weight=1,temperature=4", "fitnet:weight=1"];
const AT: &[&str] = &["ce:weight=2", "kd:weight=1,temperature=4", "at:weight=1000"];
const SP: &[&str] = &["ce", "kd:weight=1,temperature=4", "sp:weight=3000"];
const VID: &[&str] = &["ce:weight=2", "kd:weight=1,temperature=4", "vid:weight=1"];
const RKD: &[&str] = &["ce:weight=2", "kd:weight=1,temperature=4", "rkd:weight=1"];
const CC: &[&str] = &["ce", "kd:weight=1,temperature=4", "cc:weight=0.02"];
const PKT: &[&str] = &["ce", "kd:weight=1,temperature=4", "pkt:weight=30000"];
const FT: &[&str] = &["ce", "kd:weight=1,temperature=4", "ft:weight=200"];
const CRD: &[&str] = &["ce", "kd:weight=1,temperature=4", "crd:weight=0.8"];
const NST: &[&str] = &["ce", "kd:weight=1,temperature=4", "nst-poly:weight=50"];

/// The table in `RepDistiller`'s README, with the weights from its scripts.
pub const CIFAR100: Suite = Suite {
    name: "cifar100",
    about: "CIFAR-100",
    source: "RepDistiller (github.com/HobbitLong/RepDistiller; Tian, Krishnan & Isola 2020, \
             arXiv:1910.10699)",
    note: "The teacher is made by the same settings from the labels alone: the recipe of method \
           CE with `nst-cache train TEACHER --data`. AB compares maps before their activations, so \
           its cache is another: --tap names those.",
    // in the order of the columns of `reported`; the last two have no figure there
    methods: &[
        method("KD", &["ce:weight=0.1", "kd:weight=0.9,temperature=4"]),
        method("FitNet", &["ce", "fitnet:weight=100"]),
        method("AT", &["ce", "at:weight=1000"]),
        method("SP", &["ce", "sp:weight=3000"]),
        method("CC", &["ce", "cc:weight=0.02"]),
        method("VID", &["ce", "vid:weight=1"]),
        method("RKD", &["ce", "rkd:weight=1"]),
        method("PKT", &["ce", "pkt:weight=30000"]),
        two_stages("AB", &["ab:weight=1,until=30", "ce:from=30"]),
        method("FT", &["ce", "ft:weight=200"]),
        two_stages("FSP", &["fsp:weight=50,until=30", "ce:from=30"]),
        method("NST", &["ce", "nst-poly:weight=50"]),
        method("CRD", &["ce", "crd:weight=0.8"]),
        method("CRD+KD", &["ce", "kd:weight=1,temperature=4", "crd:weight=0.8"]),
        method("CE", &["ce"]),
    ],
    pairs: &[
        NetworkPair {
            teacher: "wrn-40-2",
            student: "wrn-16-2",
            teacher_top1: 75.61,
            student_top1: 73.26,
            reported: &[
                74.92, 73.58, 74.08, 73.83, 73.56, 74.11, 73.35, 74.54, 72.50, 73.25, 72.91, 73.68,
                75.48,
            ],
        },
        NetworkPair {
            teacher: "wrn-40-2",
            student: "wrn-40-1",
            teacher_top1: 75.61,
            student_top1: 71.98,
            reported: &[
                73.54, 72.24, 72.77, 72.43, 72.21, 73.30, 72.22, 73.45, 72.38, 71.59, 0.0, 72.24,
                74.14,
            ],
        },
        NetworkPair {
            teacher: "resnet56",
            student: "resnet20",
            teacher_top1: 72.34,
            student_top1: 69.06,
            reported: &[
                70.66, 69.21, 70.55, 69.67, 69.63, 70.38, 69.61, 70.34, 69.47, 69.84, 69.95, 69.60,
                71.16,
            ],
        },
        NetworkPair {
            teacher: "resnet110",
            student: "resnet20",
            teacher_top1: 74.31,
            student_top1: 69.06,
            reported: &[
                70.67, 68.99, 70.22, 70.04, 69.48, 70.16, 69.25, 70.25, 69.53, 70.22, 70.11, 69.53,
                71.46,
            ],
        },
        NetworkPair {
            teacher: "resnet110",
            student: "resnet32",
            teacher_top1: 74.31,
            student_top1: 71.14,
            reported: &[
                73.08, 71.06, 72.31, 72.69, 71.48, 72.61, 71.82, 72.61, 70.98, 72.37, 71.89, 71.96,
                73.48,
            ],
        },
        NetworkPair {
            teacher: "resnet32x4",
            student: "resnet8x4",
            teacher_top1: 79.42,
            student_top1: 72.50,
            reported: &[
                73.33, 73.50, 73.44, 72.94, 72.97, 73.09, 71.90, 73.64, 73.17, 72.86, 72.62, 73.30,
                75.51,
            ],
        },
        NetworkPair {
            teacher: "vgg13",
            student: "vgg8",
            teacher_top1: 74.64,
            student_top1: 70.36,
            reported: &[
                72.98, 71.02, 71.43, 72.68, 70.71, 71.23, 71.48, 72.88, 70.94, 70.58, 70.23, 71.53,
                73.94,
            ],
        },
        NetworkPair {
            teacher: "vgg13",
            student: "mobilenetv2-0.5",
            teacher_top1: 74.64,
            student_top1: 64.60,
            reported: &[
                67.37, 64.14, 59.40, 66.30, 64.86, 65.56, 64.52, 67.13, 66.06, 61.78, 0.0, 58.16,
                69.73,
            ],
        },
        NetworkPair {
            teacher: "resnet50",
            student: "mobilenetv2-0.5",
            teacher_top1: 79.34,
            student_top1: 64.60,
            reported: &[
                67.35, 63.16, 58.58, 68.08, 65.43, 67.57, 64.43, 66.52, 67.20, 60.99, 0.0, 64.96,
                69.11,
            ],
        },
        NetworkPair {
            teacher: "resnet50",
            student: "vgg8",
            teacher_top1: 79.34,
            student_top1: 70.36,
            reported: &[
                73.81, 70.69, 71.84, 73.34, 70.25, 70.30, 71.50, 73.01, 70.65, 70.29, 0.0, 71.28,
                74.30,
            ],
        },
        NetworkPair {
            teacher: "resnet32x4",
            student: "shufflenetv1",
            teacher_top1: 79.42,
            student_top1: 70.50,
            reported: &[
                74.07, 73.59, 71.73, 73.48, 71.14, 73.38, 72.28, 74.10, 73.55, 71.75, 0.0, 74.12,
                75.11,
            ],
        },
        NetworkPair {
            teacher: "resnet32x4",
            student: "shufflenetv2",
            teacher_top1: 79.42,
            student_top1: 71.82,
            reported: &[
                74.45, 73.54, 72.73, 74.56, 71.29, 73.40, 73.21, 74.69, 74.31, 72.50, 0.0, 74.68,
                75.65,
            ],
        },
        NetworkPair {
            teacher: "wrn-40-2",
            student: "shufflenetv1",
            teacher_top1: 75.61,
            student_top1: 70.50,
            reported: &[
                74.83, 73.73, 73.32, 74.52, 71.38, 73.61, 72.21, 73.89, 73.34, 72.03, 0.0, 74.89,
                76.05,
            ],
        },
    ],
};

/// The standard and the adaptive column of spot-adaptive distillation: the figures of the first
/// README of its code (commit 2cc304d); later versions refer to the paper instead.
pub const SAKD: Suite = Suite {
    name: "sakd",
    about: "CIFAR-100, spot-adaptive distillation",
    source: "SAKD (github.com/zju-vipa/spot-adaptive-pytorch; Song et al. 2022)",
    note: "Every criterion stands beside KD, at its usual pairs of maps. Published policies learn \
           from routes through both networks, which run the teacher at every step (mode \
           \"exact\"); here they learn from what the cache holds (docs/criteria.md). The authors \
           train FT's paraphraser at a rate of 0.01, here it takes the student's; their NST runs \
           in batches of 32 from resnet50 to mobilenetv2-0.5 and from wrn-40-2 to shufflenetv1, \
           here all are of 64.",
    methods: &[
        method("FitNet", FITNET),
        method("AT", AT),
        method("SP", SP),
        method("CC", CC),
        method("VID", VID),
        method("RKD", RKD),
        method("PKT", PKT),
        method("FT", FT),
        method("NST", NST),
        method("CRD", CRD),
        adaptive("FitNet+SAKD", FITNET),
        adaptive("AT+SAKD", AT),
        adaptive("SP+SAKD", SP),
        adaptive("CC+SAKD", CC),
        adaptive("VID+SAKD", VID),
        adaptive("RKD+SAKD", RKD),
        adaptive("PKT+SAKD", PKT),
        adaptive("FT+SAKD", FT),
        adaptive("NST+SAKD", NST),
        adaptive("CRD+SAKD", CRD),
    ],
    pairs: &[
        NetworkPair {
            teacher: "resnet56",
            student: "resnet20",
            teacher_top1: 72.34,
            student_top1: 69.06,
            reported: &[
                71.05, 71.06, 70.65, 71.03, 71.22, 71.07, 70.72, 71.15, 70.68, 71.48, 71.34, 71.24,
                71.29, 71.26, 71.28, 71.25, 71.42, 71.17, 70.77, 71.72,
            ],
        },
        NetworkPair {
            teacher: "resnet110",
            student: "resnet32",
            teacher_top1: 74.31,
            student_top1: 71.14,
            reported: &[
                73.19, 73.16, 72.90, 73.07, 73.31, 72.91, 73.32, 73.58, 72.91, 73.68, 73.28, 73.76,
                72.98, 73.41, 73.49, 73.50, 73.29, 73.67, 73.71, 73.88,
            ],
        },
        NetworkPair {
            teacher: "resnet32x4",
            student: "resnet8x4",
            teacher_top1: 79.42,
            student_top1: 72.50,
            reported: &[
                74.46, 75.16, 73.93, 74.60, 74.57, 73.55, 73.87, 74.60, 74.03, 75.28, 74.60, 75.42,
                74.33, 74.63, 74.88, 73.58, 74.38, 74.75, 74.11, 75.75,
            ],
        },
        NetworkPair {
            teacher: "vgg13",
            student: "vgg8",
            teacher_top1: 74.64,
            student_top1: 70.36,
            reported: &[
                73.09, 73.56, 73.24, 73.02, 73.51, 73.38, 73.67, 73.18, 73.33, 74.28, 73.22, 73.64,
                73.26, 73.44, 73.55, 73.52, 73.67, 73.58, 73.40, 74.30,
            ],
        },
        NetworkPair {
            teacher: "wrn-40-2",
            student: "wrn-16-2",
            teacher_top1: 75.61,
            student_top1: 73.26,
            reported: &[
                75.06, 75.01, 73.23, 74.99, 74.93, 74.46, 75.12, 75.07, 75.03, 75.75, 75.26, 75.18,
                74.37, 75.14, 75.54, 75.50, 75.34, 75.03, 75.23, 75.99,
            ],
        },
        NetworkPair {
            teacher: "vgg13",
            student: "mobilenetv2-0.5",
            teacher_top1: 74.64,
            student_top1: 64.60,
            reported: &[
                72.63, 72.12, 72.96, 72.73, 72.10, 72.58, 72.76, 71.99, 72.19, 73.56, 72.93, 72.51,
                72.76, 72.78, 71.86, 72.85, 72.79, 72.36, 72.20, 73.82,
            ],
        },
        NetworkPair {
            teacher: "resnet50",
            student: "mobilenetv2-0.5",
            teacher_top1: 79.34,
            student_top1: 64.60,
            reported: &[
                72.96, 71.82, 73.17, 72.61, 73.00, 73.05, 72.99, 72.85, 73.01, 73.99, 73.35, 72.30,
                73.29, 72.70, 73.10, 73.39, 73.31, 72.91, 73.03, 74.03,
            ],
        },
        NetworkPair {
            teacher: "resnet50",
            student: "vgg8",
            teacher_top1: 79.34,
            student_top1: 70.36,
            reported: &[
                73.24, 73.60, 73.71, 73.20, 73.24, 73.36, 73.39, 73.11, 0.0, 74.14, 73.78, 73.61,
                74.21, 73.88, 73.56, 73.57, 73.96, 73.68, 0.0, 74.46,
            ],
        },
        NetworkPair {
            teacher: "resnet32x4",
            student: "resnet32",
            // as printed; the same teacher has 79.42 in a pair above
            teacher_top1: 74.92,
            student_top1: 71.14,
            reported: &[
                72.07, 72.85, 72.12, 72.44, 72.29, 71.54, 72.04, 72.42, 72.34, 73.29, 72.56, 72.92,
                72.38, 72.74, 72.67, 72.11, 72.45, 72.73, 72.74, 73.40,
            ],
        },
        NetworkPair {
            teacher: "wrn-40-2",
            student: "shufflenetv1",
            teacher_top1: 75.61,
            student_top1: 70.50,
            reported: &[
                75.21, 76.35, 76.27, 75.24, 76.03, 75.96, 75.66, 76.05, 75.88, 76.17, 75.46, 76.55,
                76.76, 75.78, 76.22, 75.47, 75.94, 75.73, 75.73, 76.72,
            ],
        },
    ],
};
