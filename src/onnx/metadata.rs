//! The keys under which a trained student carries what its users need (`metadata_props` of the
//! model).

/// The preprocessing that it was trained with, as JSON of [`crate::data::Preprocess`].
pub const PREPROCESS: &str = "nst-cache.preprocess";
/// The class names in the order of the logits, a JSON list.
pub const CLASSES: &str = "nst-cache.classes";
/// The recipe of the training run, as JSON of [`crate::recipe::Train`].
pub const RECIPE: &str = "nst-cache.recipe";
/// SHA-256 of the teacher's file.
pub const TEACHER: &str = "nst-cache.teacher";
/// Who wrote the untrained student, where that is PyTorch: its initializers are a state dict.
pub const PRODUCER: &str = "nst-cache.producer";
/// What `PyTorch` calls itself.
pub const PYTORCH: &str = "pytorch";
/// Top-1 on the test split in percent.
pub const ACCURACY: &str = "nst-cache.accuracy";
