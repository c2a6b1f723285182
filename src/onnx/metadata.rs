//! Keys of a trained student's `metadata_props`, which tell its users what they need.

/// Preprocessing of the training data: [`crate::data::Preprocess`] as JSON.
pub const PREPROCESS: &str = "nst-cache.preprocess";
/// Class names in the order of the logits: a JSON list.
pub const CLASSES: &str = "nst-cache.classes";
/// What each output is: a JSON object of names and what they hold, such as `class-logits`.
pub const OUTPUTS: &str = "nst-cache.outputs";
/// An output of class logits in [`OUTPUTS`].
pub const CLASS_LOGITS: &str = "class-logits";
/// Recipe of the training run: [`crate::recipe::Train`] as JSON.
pub const RECIPE: &str = "nst-cache.recipe";
/// SHA-256 of the teacher's file.
pub const TEACHER: &str = "nst-cache.teacher";
/// Producer of the untrained student if it is PyTorch: its initializers then form a state dict.
pub const PRODUCER: &str = "nst-cache.producer";
/// The producer name that `PyTorch` writes.
pub const PYTORCH: &str = "pytorch";
/// Top-1 accuracy on the test split, in percent.
pub const ACCURACY: &str = "nst-cache.accuracy";
