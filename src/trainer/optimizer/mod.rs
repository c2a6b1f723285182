//! SGD (Sutskever et al. 2013, in PyTorch's form) and `AdamW` (Loshchilov & Hutter 2019,
//! arXiv:1711.05101), in place, with state that can be saved.

mod tensor;

use crate::error::{Error, Result};
use crate::recipe::OptimizerRecipe;
use crate::tensor::{Element, change, data, typed};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Optimizer as _;
use rayon::prelude::*;

/// Elements per task: the split does not affect the result, since elements are independent.
const TASK: usize = 1 << 14;

/// A parameter's factors of the optimizer's settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Factors {
    /// The factor of the learning rate.
    pub lr: f64,
    /// The factor of the weight decay.
    pub decay: f64,
}

impl Default for Factors {
    fn default() -> Self {
        Self { lr: 1.0, decay: 1.0 }
    }
}

/// Updates parameters along their gradients: a [`candle_nn::Optimizer`] with gradient clipping,
/// factors for each parameter, and state that can be saved.
#[derive(Debug)]
pub struct Optimizer {
    recipe: OptimizerRecipe,
    parameters: Vec<Var>,
    /// One per parameter.
    factors: Vec<Factors>,
    /// One tensor per parameter and slot, slot by slot: SGD has one slot (the momentum buffer, none
    /// without momentum), `AdamW` two.
    state: Vec<Var>,
    steps: u64,
    /// The factor that gradients are multiplied by: less than 1 if they are clipped.
    scale: f64,
}

impl Optimizer {
    /// An optimizer of these parameters with zero state.
    ///
    /// # Errors
    /// When the state cannot be allocated.
    pub fn create(parameters: Vec<Var>, recipe: OptimizerRecipe) -> Result<Self> {
        let mut state = Vec::new();
        for _ in slots(&recipe) {
            for parameter in &parameters {
                state.push(Var::zeros(parameter.shape(), parameter.dtype(), parameter.device())?);
            }
        }
        let factors = vec![Factors::default(); parameters.len()];
        Ok(Self { recipe, parameters, factors, state, steps: 0, scale: 1.0 })
    }

    /// The same, with factors for each parameter.
    ///
    /// # Errors
    /// When their number differs from that of the parameters.
    pub fn with_factors(self, factors: Vec<Factors>) -> Result<Self> {
        if factors.len() != self.parameters.len() {
            return Err(Error::internal(format!(
                "optimizer: expected factors for {} parameters, found {}",
                self.parameters.len(),
                factors.len()
            )));
        }
        Ok(Self { factors, ..self })
    }

    /// Takes one step with learning rate `lr` along `gradients` times `scale` (the clipping
    /// factor). A parameter without a gradient stays unchanged.
    ///
    /// # Errors
    /// When a gradient has a different shape or type from its parameter.
    pub fn update(&mut self, gradients: &[Option<Tensor>], lr: f64, scale: f64) -> Result<()> {
        if gradients.len() != self.parameters.len() {
            return Err(Error::internal(format!(
                "optimizer: expected {} gradients, found {}",
                self.parameters.len(),
                gradients.len()
            )));
        }
        // only a backward pass creates a gradient store in candle
        let mut store = Tensor::zeros((), DType::F32, &Device::Cpu)?.backward()?;
        for (index, (parameter, gradient)) in self.parameters.iter().zip(gradients).enumerate() {
            if let Some(gradient) = gradient {
                // here, since what goes through candle keeps no kind of error
                self.check(index, gradient)?;
                store.insert(parameter, gradient.clone());
            }
        }
        self.set_learning_rate(lr);
        self.scale = scale;
        Ok(self.step(&store)?)
    }

    /// Whether a gradient is one of this parameter.
    fn check(&self, index: usize, gradient: &Tensor) -> Result<()> {
        let parameter = &self.parameters[index];
        if gradient.shape() == parameter.shape() && gradient.dtype() == parameter.dtype() {
            return Ok(());
        }
        Err(Error::internal(format!(
            "optimizer: expected a gradient {:?} {:?}, found {:?} {:?}",
            parameter.dtype(),
            parameter.shape(),
            gradient.dtype(),
            gradient.shape()
        )))
    }

    /// Updates one parameter.
    fn advance(&self, index: usize, gradient: &Tensor) -> Result<()> {
        let (parameter, factors) = (&self.parameters[index], self.factors[index]);
        let recipe = self.recipe.with_decay(factors.decay);
        let (lr, scale) = (self.recipe.lr() * factors.lr, self.scale);
        let slots: Vec<&Var> =
            self.state.iter().skip(index).step_by(self.parameters.len()).collect();
        if !parameter.device().is_cpu() {
            return tensor::step(&recipe, parameter, &slots, gradient, [lr, scale], self.steps);
        }
        let (dtype, dense) = (gradient.dtype(), gradient.contiguous()?);
        let held = data(&dense)?;
        typed!(dtype, |T| step::<T>(&recipe, parameter, &slots, held.of()?, lr, scale, self.steps))
    }

    /// Steps taken.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The state as named tensors, in a fixed order: slot by slot, parameter by parameter
    /// (`momentum/0`, `first/3`, `second/3` …).
    #[must_use]
    pub fn state(&self) -> Vec<(String, &Var)> {
        let count = self.parameters.len();
        let names = slots(&self.recipe)
            .iter()
            .flat_map(|slot| (0..count).map(move |i| format!("{slot}/{i}")));
        names.zip(&self.state).collect()
    }

    /// Sets the number of steps that a restored state has taken; the tensors are set through
    /// [`Optimizer::state`].
    pub fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }
}

impl candle_nn::Optimizer for Optimizer {
    type Config = OptimizerRecipe;

    fn new(vars: Vec<Var>, config: Self::Config) -> candle_core::Result<Self> {
        Self::create(vars, config).map_err(candle_core::Error::wrap)
    }

    fn step(&mut self, grads: &GradStore) -> candle_core::Result<()> {
        self.steps += 1;
        for (index, parameter) in self.parameters.iter().enumerate() {
            if let Some(gradient) = grads.get(parameter) {
                self.check(index, gradient).map_err(candle_core::Error::wrap)?;
                self.advance(index, gradient).map_err(candle_core::Error::wrap)?;
            }
        }
        Ok(())
    }

    fn learning_rate(&self) -> f64 {
        self.recipe.lr()
    }

    fn set_learning_rate(&mut self, lr: f64) {
        self.recipe.set_lr(lr);
    }
}

/// The names of an optimizer's tensors per parameter.
fn slots(recipe: &OptimizerRecipe) -> &'static [&'static str] {
    match recipe {
        OptimizerRecipe::Sgd { momentum, .. } if *momentum == 0.0 => &[],
        OptimizerRecipe::Sgd { .. } => &["momentum"],
        OptimizerRecipe::Adamw { .. } => &["first", "second"],
    }
}

/// Updates one parameter.
fn step<T: Element>(
    recipe: &OptimizerRecipe,
    parameter: &Var,
    slots: &[&Var],
    gradient: &[T],
    lr: f64,
    scale: f64,
    steps: u64,
) -> Result<()> {
    let scale = T::of(scale);
    match *recipe {
        OptimizerRecipe::Sgd { momentum, nesterov, weight_decay, .. } => {
            let (lr, momentum, decay) = (T::of(lr), T::of(momentum), T::of(weight_decay));
            let Some(buffer) = slots.first() else {
                return change(parameter, |weights: &mut [T]| {
                    weights.par_chunks_mut(TASK).zip(gradient.par_chunks(TASK)).for_each(
                        |(weights, gradient)| {
                            for (w, &g) in weights.iter_mut().zip(gradient) {
                                *w -= lr * (g * scale + decay * *w);
                            }
                        },
                    );
                });
            };
            with_two_slices_mut(parameter, buffer, |weights: &mut [T], buffer: &mut [T]| {
                weights
                    .par_chunks_mut(TASK)
                    .zip(buffer.par_chunks_mut(TASK))
                    .zip(gradient.par_chunks(TASK))
                    .for_each(|((weights, buffer), gradient)| {
                        for ((w, b), &g) in weights.iter_mut().zip(buffer).zip(gradient) {
                            let g = g * scale + decay * *w;
                            *b = momentum * *b + g;
                            *w -= lr * if nesterov { g + momentum * *b } else { *b };
                        }
                    });
            })
        }
        OptimizerRecipe::Adamw { betas: [beta1, beta2], eps, weight_decay, .. } => {
            let [first, second] = slots else {
                return Err(Error::internal("optimizer: state is missing"));
            };
            let steps = i32::try_from(steps).unwrap_or(i32::MAX);
            let rate = T::of(lr / (1.0 - beta1.powi(steps)));
            let correction = T::of((1.0 - beta2.powi(steps)).sqrt());
            let keep = T::of(1.0 - lr * weight_decay);
            let (b1, b2, r1, r2, eps) =
                (T::of(beta1), T::of(beta2), T::of(1.0 - beta1), T::of(1.0 - beta2), T::of(eps));
            with_two_slices_mut(first, second, |first: &mut [T], second: &mut [T]| {
                change(parameter, |weights: &mut [T]| {
                    let tasks = weights
                        .par_chunks_mut(TASK)
                        .zip(first.par_chunks_mut(TASK))
                        .zip(second.par_chunks_mut(TASK));
                    tasks.zip(gradient.par_chunks(TASK)).for_each(
                        |(((weights, first), second), gradient)| {
                            for (((w, m), v), &g) in
                                weights.iter_mut().zip(first).zip(second).zip(gradient)
                            {
                                let g = g * scale;
                                *m = b1 * *m + r1 * g;
                                *v = b2 * *v + r2 * g * g;
                                *w = *w * keep - rate * *m / (v.sqrt() / correction + eps);
                            }
                        },
                    );
                })
            })?
        }
    }
}

fn with_two_slices_mut<T: Element, R>(
    a: &Var,
    b: &Var,
    f: impl FnOnce(&mut [T], &mut [T]) -> R,
) -> Result<R> {
    change(a, |a: &mut [T]| change(b, |b: &mut [T]| f(a, b)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T: Element>(recipe: OptimizerRecipe, start: T, gradients: &[T]) -> (f64, Optimizer) {
        let var = Var::from_tensor(&Tensor::new(&[start], &Device::Cpu).unwrap()).unwrap();
        let mut optimizer = Optimizer::create(vec![var.clone()], recipe).unwrap();
        for &gradient in gradients {
            let gradient = Tensor::new(&[gradient], &Device::Cpu).unwrap();
            optimizer.update(&[Some(gradient)], 0.1, 1.0).unwrap();
        }
        (var.to_vec1::<T>().unwrap()[0].to_f64(), optimizer)
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} {b}");
    }

    #[test]
    fn sgd_by_hand() {
        let sgd = |momentum, nesterov, weight_decay| OptimizerRecipe::Sgd {
            lr: 0.1,
            momentum,
            nesterov,
            weight_decay,
        };
        // w0 = 1, g = 0.5 then −0.2
        close(run(sgd(0.0, false, 0.0), 1.0f64, &[0.5, -0.2]).0, 0.97);
        // decay 0.1: d1 = 0.6 → w = 0.94; d2 = −0.2 + 0.094 = −0.106 → w = 0.9506
        close(run(sgd(0.0, false, 0.1), 1.0f64, &[0.5, -0.2]).0, 0.9506);
        // momentum 0.9: b1 = 0.5 → 0.95; b2 = 0.25 → 0.925
        close(run(sgd(0.9, false, 0.0), 1.0f64, &[0.5, -0.2]).0, 0.925);
        // Nesterov: d1 = 0.5 + 0.45 → 0.905; b2 = 0.25, d2 = −0.2 + 0.225 → 0.9025
        close(run(sgd(0.9, true, 0.0), 1.0f64, &[0.5, -0.2]).0, 0.9025);
    }

    #[test]
    fn adamw_by_hand() {
        let recipe =
            OptimizerRecipe::Adamw { lr: 0.1, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 };
        // step 1: w·(1 − 0.001) − 0.1·g/(|g| + eps); m̂ = g, v̂ = g²
        let one = 0.999 - 0.1 * 0.5 / (0.5 + 1e-8);
        let (m, v) = (0.9 * 0.05 + 0.1 * -0.2, 0.999 * 0.00025 + 0.001 * 0.04);
        let two = one * 0.999 - 0.1 * (m / 0.19) / ((v / (1.0f64 - 0.999 * 0.999)).sqrt() + 1e-8);
        let (value, optimizer) = run(recipe, 1.0f64, &[0.5, -0.2]);
        close(value, two);
        assert_eq!(
            optimizer.state().iter().map(|s| s.0.as_str()).collect::<Vec<_>>(),
            ["first/0", "second/0"]
        );
    }

    #[test]
    fn tensor_operations_take_the_same_steps() {
        let sgd = |momentum, nesterov| OptimizerRecipe::Sgd {
            lr: 0.1,
            momentum,
            nesterov,
            weight_decay: 0.02,
        };
        let adamw =
            OptimizerRecipe::Adamw { lr: 0.1, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 };
        for recipe in [sgd(0.0, false), sgd(0.9, false), sgd(0.9, true), adamw] {
            let vars = || vec![Var::new(&[1.0f64, -0.3, 0.7], &Device::Cpu).unwrap()];
            let (on_slices, by_tensors) = (vars(), vars());
            let mut optimizer = Optimizer::create(on_slices.clone(), recipe.clone()).unwrap();
            let state = Optimizer::create(by_tensors.clone(), recipe.clone()).unwrap().state;
            for count in 1..5u32 {
                let gradient =
                    Tensor::new(&[0.5, -0.2, 0.1 * f64::from(count)], &Device::Cpu).unwrap();
                optimizer.update(&[Some(gradient.clone())], 0.1, 0.7).unwrap();
                let slots: Vec<&Var> = state.iter().collect();
                tensor::step(&recipe, &by_tensors[0], &slots, &gradient, [0.1, 0.7], count.into())
                    .unwrap();
                let values = |vars: &[Var]| {
                    vars.iter().flat_map(|v| v.to_vec1::<f64>().unwrap()).collect::<Vec<_>>()
                };
                for (a, b) in values(&on_slices)
                    .into_iter()
                    .chain(values(&optimizer.state))
                    .zip(values(&by_tensors).into_iter().chain(values(&state)))
                {
                    close(a, b);
                }
            }
        }
    }

    #[test]
    fn single_precision_and_scale() {
        let recipe =
            OptimizerRecipe::Sgd { lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 0.0 };
        assert!((run(recipe.clone(), 1.0f32, &[0.5, -0.2]).0 - 0.9025).abs() < 1e-7);
        let var = Var::new(&[1.0f64], &Device::Cpu).unwrap();
        let mut optimizer = Optimizer::create(vec![var.clone()], recipe).unwrap();
        optimizer.update(&[Some(Tensor::new(&[1.0f64], &Device::Cpu).unwrap())], 0.1, 0.5).unwrap();
        close(var.to_vec1::<f64>().unwrap()[0], 0.905);
    }

    #[test]
    fn a_parameter_has_its_own_rate_and_decay() {
        let recipe =
            OptimizerRecipe::Sgd { lr: 0.1, momentum: 0.0, nesterov: false, weight_decay: 0.1 };
        let vars: Vec<Var> = (0..3).map(|_| Var::new(&[1.0f64], &Device::Cpu).unwrap()).collect();
        let plain = Factors::default();
        let factors = [plain, Factors { decay: 0.0, ..plain }, Factors { lr: 10.0, ..plain }];
        let create = || Optimizer::create(vars.clone(), recipe.clone()).unwrap();
        assert!(create().with_factors(vec![plain; 2]).is_err());
        let gradients = vec![Some(Tensor::new(&[0.5f64], &Device::Cpu).unwrap()); 3];
        create().with_factors(factors.into()).unwrap().update(&gradients, 0.1, 1.0).unwrap();
        // 1 − 0.1·(0.5 + 0.1), without decay, and with ten times the rate
        for (var, expected) in vars.iter().zip([0.94, 0.95, 0.4]) {
            close(var.to_vec1::<f64>().unwrap()[0], expected);
        }
    }

    #[test]
    fn candle_drives_it_too() {
        let var = Var::new(&[3.0f64], &Device::Cpu).unwrap();
        let recipe =
            OptimizerRecipe::Sgd { lr: 0.25, momentum: 0.0, nesterov: false, weight_decay: 0.0 };
        let mut optimizer = Optimizer::new(vec![var.clone()], recipe).unwrap();
        let loss = var.sqr().unwrap().sum_all().unwrap();
        optimizer.backward_step(&loss).unwrap();
        close(var.to_vec1::<f64>().unwrap()[0], 1.5);
        optimizer.set_learning_rate(0.5);
        close(optimizer.learning_rate(), 0.5);
    }

    #[test]
    fn a_gradient_of_another_shape_is_refused() {
        let var = Var::new(&[1.0f64], &Device::Cpu).unwrap();
        let recipe =
            OptimizerRecipe::Sgd { lr: 0.1, momentum: 0.0, nesterov: false, weight_decay: 0.0 };
        let mut optimizer = Optimizer::create(vec![var], recipe).unwrap();
        assert!(optimizer.update(&[], 0.1, 1.0).is_err());
        let wrong = Tensor::new(&[1.0f64, 2.0], &Device::Cpu).unwrap();
        assert!(optimizer.update(&[Some(wrong)], 0.1, 1.0).is_err());
        assert!(optimizer.update(&[None], 0.1, 1.0).is_ok());
    }
}
