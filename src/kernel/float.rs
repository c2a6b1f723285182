//! The element types that kernels take.

/// A floating-point element: `f32` or `f64`.
pub trait Float:
    num_traits::Float
    + num_traits::NumAssign
    + std::iter::Sum
    + Default
    + std::fmt::Debug
    + Send
    + Sync
    + 'static
{
    /// The nearest value of this type.
    fn of(value: f64) -> Self;
    /// The value in double precision, exactly.
    fn wide(self) -> f64;
}

impl Float for f32 {
    #[inline]
    #[allow(
        clippy::cast_possible_truncation,
        reason = "rounding to the element type is what is asked for"
    )]
    fn of(value: f64) -> Self {
        value as f32
    }

    #[inline]
    fn wide(self) -> f64 {
        f64::from(self)
    }
}

impl Float for f64 {
    #[inline]
    fn of(value: f64) -> Self {
        value
    }

    #[inline]
    fn wide(self) -> f64 {
        self
    }
}
