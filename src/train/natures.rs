//! Whether the tensors of a pair are values of one kind: logits are not compared with what a
//! softmax or a sigmoid makes of them.

use super::job::Host;
use crate::cache::Manifest;
use crate::criterion::{Pairs, Subject};
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::onnx::logits::{self, Nature};
use crate::recipe::CriterionRecipe;
use crate::trainer::pairing::Pair;

/// Rejects criteria of logits on other values, and warns of pairs of unlike ones.
pub(super) fn check(
    student: &Model,
    manifest: &Manifest,
    terms: &[CriterionRecipe],
    pairs: &[Vec<Pair>],
    host: &Host<'_>,
) -> Result<()> {
    for (term, pairs) in terms.iter().zip(pairs) {
        let spec = term.method.spec();
        let of_logits = spec.subject == Subject::Logits || spec.pairs == Pairs::ClassLogits;
        for pair in pairs {
            let own = logits::nature(student, &pair.student).map(Nature::name);
            let record = manifest.tap(&pair.teacher).filter(|_| !pair.is_logits());
            let theirs = record.and_then(|tap| tap.made_by.as_deref());
            let who = format!("criterion {}", term.name());
            if let (true, Some(maker)) = (of_logits, own) {
                let before = logits::before(student, &pair.student);
                let hint = before.map_or_else(
                    || "export the student without it".to_owned(),
                    |before| format!("compare what it reads: pair={}>{before}", pair.teacher),
                );
                return Err(Error::input(format!(
                    "{who}: student's `{}`: expected logits, found what a {maker} makes",
                    pair.student
                ))
                .hint(hint));
            }
            if let (true, Some(maker)) = (of_logits, theirs) {
                return Err(Error::input(format!(
                    "{who}: teacher's `{}`: expected logits, found what a {maker} makes",
                    pair.teacher
                ))
                .hint("extract again with --tap TENSOR, what it reads (nst-cache inspect --all)"));
            }
            let is_recorded = record.is_some_and(|tap| tap.output) || pair.is_logits();
            if is_recorded && own != theirs {
                let kind = |maker: Option<&str>| {
                    maker.map_or_else(|| "plain values".to_owned(), |m| format!("what a {m} makes"))
                };
                host.monitor.warn(&format!(
                    "{who}: unlike values are compared: the teacher's `{}` holds {}, the \
                     student's `{}` {}",
                    pair.teacher,
                    kind(theirs),
                    pair.student,
                    kind(own)
                ));
            }
        }
    }
    Ok(())
}
