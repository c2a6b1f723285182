//! Published comparisons as recipes: one table of pairs, settings and figures, from which
//! `nst-cache recipe` writes TOML. With a table, two hundred files that differ in three lines each
//! need not be kept in sync, and a wrong number is wrong in one place only.

mod tables;

pub use tables::{CIFAR100, SAKD};

use std::fmt::Write as _;

/// A comparison: pairs of networks, and methods with shared settings.
#[derive(Debug)]
pub struct Suite {
    /// Its name on the command line.
    pub name: &'static str,
    /// A one-line description.
    pub about: &'static str,
    /// The source of its settings and figures.
    pub source: &'static str,
    /// Further remarks on its recipes.
    pub note: &'static str,
    /// The pairs, with the reported figures.
    pub pairs: &'static [NetworkPair],
    /// Methods.
    pub methods: &'static [Published],
}

/// A teacher, a student, and their reported accuracies, in percent on CIFAR-100's test set.
#[derive(Debug)]
pub struct NetworkPair {
    /// The teacher, as a preset.
    pub teacher: &'static str,
    /// The student, as a preset.
    pub student: &'static str,
    /// The teacher's accuracy.
    pub teacher_top1: f64,
    /// The student's accuracy with labels alone.
    pub student_top1: f64,
    /// The student's accuracy with each method, in the order of the suite's methods; 0 if not
    /// reported.
    pub reported: &'static [f64],
}

/// A method with its weights.
#[derive(Debug)]
pub struct Published {
    /// Its name in tables.
    pub name: &'static str,
    /// Its criteria, in the form of `--criterion`.
    pub criteria: &'static [&'static str],
    /// Epochs of its own first stage, before the shared ones.
    pub first_stage: usize,
    /// Whether a policy chooses for each sample at which spots it is distilled.
    pub spots: bool,
}

/// The disk space that a cache of the teacher takes, for the comment of a recipe.
#[derive(Debug, Clone, Copy)]
pub struct Disk {
    /// Views of each image.
    pub views: usize,
    /// Bytes per row before compression: input, logits and the suggested taps as f16.
    pub row_bytes: usize,
}

/// Every suite.
pub const SUITES: [&Suite; 2] = [&CIFAR100, &SAKD];

/// Images of CIFAR-100's training split.
const ROWS: usize = 50_000;
const EPOCHS: usize = 240;
const MILESTONES: [usize; 3] = [150, 180, 210];
/// Students that are trained at a fifth of the learning rate.
const SLOW: [&str; 3] = ["mobilenetv2-0.5", "shufflenetv1", "shufflenetv2"];
const SEEDS: [u64; 3] = [0, 1, 2];
const NORMALIZATION: &str = "--mean 0.5071,0.4867,0.4408 --std 0.2675,0.2565,0.2761";

impl Suite {
    /// The pair of these networks.
    #[must_use]
    pub fn pair(&self, teacher: &str, student: &str) -> Option<&NetworkPair> {
        self.pairs.iter().find(|p| p.teacher == teacher && p.student == student)
    }

    /// The method of this name, ignoring case.
    #[must_use]
    pub fn method(&self, name: &str) -> Option<&Published> {
        self.methods.iter().find(|m| m.name.eq_ignore_ascii_case(name))
    }

    /// The recipe of one method, for `nst-cache train`.
    #[must_use]
    pub fn train(&self, pair: &NetworkPair, method: &Published, disk: Disk) -> String {
        let reported =
            self.reported(pair, method).map_or_else(|| "-".to_owned(), |top1| format!("{top1:.2}"));
        let mut text = self.head(pair, &format!("{} {reported}", method.name), disk);
        let _ = writeln!(
            text,
            "#   nst-cache train {} --cache {} --test {DATA} --recipe THIS",
            pair.student,
            cache(pair)
        );
        text.push_str(&settings(pair, method.first_stage));
        for criterion in method.criteria {
            text.push_str(&table("criterion", criterion));
        }
        if method.spots {
            text.push_str(&spots("sakd", pair));
        }
        text
    }

    /// The recipe of all methods, for `nst-cache sweep`.
    #[must_use]
    pub fn sweep(&self, pair: &NetworkPair, disk: Disk) -> String {
        let (shared, own): (Vec<&Published>, Vec<&Published>) =
            self.methods.iter().partition(|m| m.first_stage == 0);
        let shared: Vec<&Published> =
            shared.into_iter().filter(|m| self.is_possible(pair, m)).collect();
        let figures: Vec<String> = shared
            .iter()
            .filter_map(|m| self.reported(pair, m).map(|top1| format!("{} {top1:.2}", m.name)))
            .collect();
        let mut text = self.head(pair, &figures.join(", "), disk);
        let _ = writeln!(text, "#   nst-cache sweep THIS");
        if !own.is_empty() {
            let names: Vec<&str> = own.iter().map(|m| m.name).collect();
            text.push_str(&comment(&format!(
                "{} have a stage of their own before, so other epochs: `nst-cache recipe` with \
                 --method.",
                names.join(" and ")
            )));
        }
        let _ = writeln!(
            text,
            "cache = \"{}\"\ntest = \"{DATA}\"\nstudents = [\"{}\"]\nseeds = {SEEDS:?}",
            cache(pair),
            pair.student
        );
        text.push_str(&settings(pair, 0));
        for method in shared {
            let _ = writeln!(text, "\n[[method]]\nname = \"{}\"", method.name);
            for criterion in method.criteria {
                text.push_str(&table("method.criterion", criterion));
            }
            if method.spots {
                text.push_str(&spots("method.sakd", pair));
            }
        }
        text
    }

    /// The reported figure of a method.
    #[must_use]
    pub fn reported(&self, pair: &NetworkPair, method: &Published) -> Option<f64> {
        let at = self.methods.iter().position(|m| m.name == method.name)?;
        pair.reported.get(at).copied().filter(|&top1| top1 > 0.0)
    }

    /// Whether the networks' shapes suit the method: FSP needs equal channels.
    #[must_use]
    pub fn is_possible(&self, pair: &NetworkPair, method: &Published) -> bool {
        method.name != "FSP" || self.reported(pair, method).is_some()
    }

    fn head(&self, pair: &NetworkPair, reported: &str, disk: Disk) -> String {
        let Self { about, source, note, .. } = self;
        let NetworkPair { teacher, student, teacher_top1, student_top1, .. } = pair;
        let Disk { views, row_bytes } = disk;
        let gigabytes = gigabytes(row_bytes.saturating_mul(ROWS).saturating_mul(views));
        let times = EPOCHS / views.max(1);
        let what = format!(
            "{about}: {teacher} to {student}. Settings of {source}, which reports in %: teacher \
             {teacher_top1:.2}, student alone {student_top1:.2}, {reported}."
        );
        let views_say = format!(
            "A cache has a finite number of views. {EPOCHS} epochs go through these {views} about \
             {times} times each, where the published runs crop and flip afresh every time: more \
             views come closer, these figures are not those. The cache takes at most {gigabytes} \
             ({row_bytes} B a row before compression, which takes most of it away where maps are \
             sparse) and serves the methods together."
        );
        let cache = cache(pair);
        let command = [
            format!("#   nst-cache extract {teacher}.onnx --data {DATA} \\\n"),
            format!("#     {NORMALIZATION} \\\n"),
            format!("#     --augment crop-flip --views {views} -o {cache}\n"),
        ];
        [comment(&what), comment(note), "#\n".to_owned(), comment(&views_say), "#\n".to_owned()]
            .concat()
            + &command.concat()
    }
}

/// A paragraph as comment lines.
fn comment(text: &str) -> String {
    /// Columns per line.
    const WIDTH: usize = 100;
    let mut lines = vec!["#".to_owned()];
    for word in text.split_whitespace() {
        if let Some(line) = lines.last_mut().filter(|line| line.len() + 1 + word.len() <= WIDTH) {
            *line = format!("{line} {word}");
        } else {
            lines.push(format!("# {word}"));
        }
    }
    lines.join("\n") + "\n"
}

const DATA: &str = "cifar100:cifar-100-binary";

fn cache(pair: &NetworkPair) -> String {
    format!("cache/cifar100-{}", pair.teacher)
}

/// The settings that all methods share, after `first` epochs of another stage.
fn settings(pair: &NetworkPair, first: usize) -> String {
    let lr = if SLOW.contains(&pair.student) { 0.01 } else { 0.05 };
    let milestones = MILESTONES.map(|m| (m + first).to_string()).join(", ");
    let epochs = EPOCHS + first;
    [
        format!("epochs = {epochs}\nbatch = 64\n\n"),
        format!("[optimizer]\nkind = \"sgd\"\nlr = {lr}\nmomentum = 0.9\nweight-decay = 5e-4\n\n"),
        format!("[schedule]\nkind = \"multistep\"\nmilestones = [{milestones}]\ngamma = 0.1\n"),
    ]
    .concat()
}

/// `kd:weight=0.9` as a TOML table.
fn table(name: &str, criterion: &str) -> String {
    let (method, rest) = criterion.split_once(':').unwrap_or((criterion, ""));
    let mut text = format!("\n[[{name}]]\nmethod = \"{method}\"\n");
    for (key, value) in rest.split(',').filter_map(|setting| setting.split_once('=')) {
        let _ = if value.parse::<f64>().is_ok() {
            writeln!(text, "{key} = {value}")
        } else {
            writeln!(text, "{key} = \"{value}\"")
        };
    }
    text
}

/// The settings of spot-adaptive distillation; the temperature is that of the authors' code.
fn spots(name: &str, pair: &NetworkPair) -> String {
    format!(
        "\n[{name}]\n# the published form runs the teacher too: mode = \"exact\" and teacher = \
         \"{}.onnx\"\nmode = \"cached\"\ntemperature = 5\n",
        pair.teacher
    )
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn gigabytes(bytes: usize) -> String {
    format!("{:.0} GB", (bytes as f64 / 1e9).ceil())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{Sweep, Train};

    const DISK: Disk = Disk { views: 8, row_bytes: 60_000 };

    #[test]
    fn every_recipe_reads() {
        for suite in SUITES {
            for pair in suite.pairs {
                for method in suite.methods.iter().filter(|m| suite.is_possible(pair, m)) {
                    let text = suite.train(pair, method, DISK);
                    let recipe: Train =
                        toml::from_str(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
                    recipe.validate().unwrap();
                    assert_eq!((recipe.epochs, recipe.batch), (EPOCHS + method.first_stage, 64));
                    assert_eq!(
                        (recipe.criteria.len(), recipe.sakd.is_some()),
                        (method.criteria.len(), method.spots)
                    );
                }
                let text = suite.sweep(pair, DISK);
                let sweep = Sweep::parse("sweep", &text)
                    .unwrap_or_else(|e| panic!("{}\n{text}", e.chain()));
                assert!(sweep.methods.len() >= 12 && sweep.students == [pair.student], "{text}");
            }
        }
    }

    #[test]
    fn a_recipe_says_what_it_is() {
        let pair = CIFAR100.pair("resnet56", "resnet20").unwrap();
        let text = CIFAR100.train(pair, CIFAR100.method("nst").unwrap(), DISK);
        for part in [
            "72.34",
            "69.06",
            "NST 69.60",
            "30 times",
            "24 GB",
            "--views 8",
            "lr = 0.05",
            "milestones = [150, 180, 210]",
            "weight = 50",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        let slow = CIFAR100.pair("wrn-40-2", "shufflenetv1").unwrap();
        assert!(CIFAR100.sweep(slow, DISK).contains("lr = 0.01"));
        assert!(!CIFAR100.is_possible(slow, CIFAR100.method("FSP").unwrap()));
        let ab = CIFAR100.train(pair, CIFAR100.method("AB").unwrap(), DISK);
        for part in ["epochs = 270", "milestones = [180, 210, 240]", "until = 30", "from = 30"] {
            assert!(ab.contains(part), "{part}:\n{ab}");
        }
    }

    #[test]
    fn every_pair_has_a_figure_for_every_method() {
        for suite in SUITES {
            for pair in suite.pairs {
                assert!(pair.reported.len() <= suite.methods.len());
                assert!(
                    pair.reported.iter().all(|&t| t == 0.0 || (50.0..80.0).contains(&t)),
                    "{pair:?}"
                );
            }
        }
        assert!(CIFAR100.pairs.iter().all(|p| p.reported.len() + 2 == CIFAR100.methods.len()));
        // the standard column is followed by the adaptive one, in the same order
        assert!(SAKD.pairs.iter().all(|p| p.reported.len() == SAKD.methods.len()));
        let (standard, adaptive) = SAKD.methods.split_at(SAKD.methods.len() / 2);
        assert!(standard.iter().zip(adaptive).all(|(s, a)| a.spots
            && a.name == format!("{}+SAKD", s.name)
            && a.criteria == s.criteria));
    }
}
