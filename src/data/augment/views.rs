//! The views of a cache: each parameter is drawn from a generator keyed by (seed, sample, view), so
//! it depends on neither batches, workers, order nor resumes.

use super::super::random;
use super::{Crop, Jitter, Mix, View, mixing, padding, shifted, signed, toss};
use crate::data::augmentation::{Augment, Augmentation, ViewCount};
use crate::error::{Error, Result};
use rand_chacha::ChaCha8Rng;

/// The views of a data set's samples.
#[derive(Debug, Clone)]
pub struct Views {
    /// How they are made.
    pub augmentation: Augmentation,
    /// Height and width of the model's input, in pixels.
    pub size: [usize; 2],
    /// Seed of every draw.
    pub seed: u64,
    /// Number of rows to mix with.
    pub rows: usize,
}

/// Identifies one view of one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ViewKey {
    /// Index of the sample in the data set.
    pub sample: u64,
    /// The sample's row.
    pub row: usize,
    /// The view's number, from 0.
    pub view: u64,
}

impl Views {
    /// The number of different views; `None` if it is not finite.
    #[must_use]
    pub fn distinct(&self) -> Option<u32> {
        (!self.augmentation.mixes() && self.augmentation.color_jitter.is_none())
            .then(|| self.positions())
            .flatten()
    }

    /// How many views to take.
    ///
    /// # Errors
    /// If more are requested than exist, or all of an infinite number.
    pub fn count(&self, asked: ViewCount) -> Result<usize> {
        let what = &self.augmentation;
        match (asked, self.distinct()) {
            (ViewCount::All, Some(all)) => Ok(all as usize),
            (ViewCount::All, None) => {
                Err(Error::input(format!("--views all: {what} has no finite number of views"))
                    .hint("give a number: --views N"))
            }
            (ViewCount::Count(count), Some(1)) if count > 1 => Err(Error::input(format!(
                "--views {count}: every view of unaugmented images is the same"
            ))
            .hint("name an augmentation: --augment crop-flip or random-resized-crop")),
            (ViewCount::Count(count), Some(all)) if count > all as usize => {
                Err(Error::input(format!(
                    "--views {count}: {what} has only {all} views of {}x{} images",
                    self.size[0], self.size[1]
                ))
                .hint("--views all takes each of them once"))
            }
            (ViewCount::Count(count), _) => Ok(count),
        }
    }

    /// The parameters of one view of one sample. `image` is its decoded height and width.
    ///
    /// A finite number of crops and flips is drawn without replacement: each sample goes through
    /// all of them in its own order before any repeats.
    #[must_use]
    pub fn draw(&self, key: ViewKey, image: [usize; 2]) -> View {
        let Augmentation { geometry, color_jitter, mixup, cutmix } = self.augmentation;
        let rng = |usage| random::keyed(self.seed, usage, key.sample, key.view);
        let (crop, flip) = if let Some(positions) = self.positions() {
            self.position(key, positions)
        } else {
            let mut rng = rng(*b"v-resize");
            (Some(random_resized_crop(&mut rng, image)), toss(&mut rng))
        };
        View {
            crop: crop
                .filter(|_| matches!(geometry, Augment::CropFlip | Augment::RandomResizedCrop)),
            flip,
            jitter: color_jitter.map(|settings| Jitter::draw(&settings, &mut rng(*b"v-jitter"))),
            mix: self
                .augmentation
                .mixes()
                .then(|| self.mix(key.row, mixup, cutmix, &mut rng(*b"view-mix"))),
        }
    }

    /// The number of pairs of crop and flip; `None` for crops of any size.
    fn positions(&self) -> Option<u32> {
        match self.augmentation.geometry {
            Augment::None => Some(1),
            Augment::Flip => Some(2),
            Augment::CropFlip => {
                let [rows, columns] = self.size.map(|side| 2 * padding(side) + 1);
                Some(rows * columns * 2)
            }
            Augment::RandomResizedCrop => None,
        }
    }

    /// The crop and flip of a view, from a finite number of positions.
    fn position(&self, key: ViewKey, positions: u32) -> (Option<Crop>, bool) {
        let round = key.view / u64::from(positions);
        let within = u32::try_from(key.view % u64::from(positions)).unwrap_or_default();
        let mut rng = random::keyed(self.seed, *b"v-places", key.sample, round);
        let position = random::permuted(&mut rng, positions, within);
        let [rows, columns] = self.size.map(|side| 2 * padding(side) + 1);
        let [top, left] =
            [(position / 2 / columns % rows, rows), (position / 2 % columns, columns)]
                .map(|(at, all)| signed(at) - signed(all / 2));
        (
            Some(shifted(self.size, top, left)),
            position % 2 == 1 && self.augmentation.geometry != Augment::None,
        )
    }

    /// A partner among the other rows, and its weight: mixup or `CutMix` as in torchvision's `v2`,
    /// chosen by a coin toss if both are requested.
    fn mix(
        &self,
        row: usize,
        mixup: Option<f64>,
        cutmix: Option<f64>,
        rng: &mut ChaCha8Rng,
    ) -> Mix {
        let others = u32::try_from(self.rows.saturating_sub(1)).unwrap_or(u32::MAX);
        let drawn = random::below(rng, others.max(1)) as usize;
        let partner = if others == 0 { row } else { drawn + usize::from(drawn >= row) };
        let blends = toss(rng);
        match (mixup, cutmix) {
            (Some(alpha), None) => Mix::blend(partner, random::beta(rng, alpha)),
            (Some(alpha), Some(_)) if blends => Mix::blend(partner, random::beta(rng, alpha)),
            (_, Some(alpha)) => mixing::cut(partner, random::beta(rng, alpha), self.size, rng),
            (None, None) => Mix::blend(partner, 1.0),
        }
    }
}

/// Szegedy's crop, as torchvision's `RandomResizedCrop.get_params` draws it: an area of 8% to 100%,
/// an aspect ratio of 3/4 to 4/3 (uniform in its logarithm), ten tries, else the center.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sides of images are far below 2^31, and rounded values were checked against them"
)]
pub(super) fn random_resized_crop(rng: &mut ChaCha8Rng, [height, width]: [usize; 2]) -> Crop {
    const TRIES: usize = 10;
    const SCALE: [f64; 2] = [0.08, 1.0];
    const RATIO: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0];
    let (rows, columns) = (height as f64, width as f64);
    for _ in 0..TRIES {
        let area = rows * columns * random::uniform(rng, SCALE[0], SCALE[1]);
        let ratio = random::uniform(rng, RATIO[0].ln(), RATIO[1].ln()).exp();
        let (w, h) =
            ((area * ratio).sqrt().round_ties_even(), (area / ratio).sqrt().round_ties_even());
        if (1.0..=columns).contains(&w) && (1.0..=rows).contains(&h) {
            let top = random::below(rng, (rows - h) as u32 + 1);
            let left = random::below(rng, (columns - w) as u32 + 1);
            return Crop {
                top: signed(top),
                left: signed(left),
                height: h as i32,
                width: w as i32,
            };
        }
    }
    let aspect = columns / rows.max(1.0);
    let (h, w) = if aspect < RATIO[0] {
        (rows.min((columns / RATIO[0]).round_ties_even()), columns)
    } else if aspect > RATIO[1] {
        (rows, columns.min((rows * RATIO[1]).round_ties_even()))
    } else {
        (rows, columns)
    };
    Crop {
        top: ((rows - h) / 2.0) as i32,
        left: ((columns - w) / 2.0) as i32,
        height: h as i32,
        width: w as i32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::augmentation::ColorJitter;
    use std::collections::HashSet;

    fn views(geometry: Augment) -> Views {
        Views {
            augmentation: Augmentation { geometry, ..Augmentation::NONE },
            size: [32, 32],
            seed: 7,
            rows: 50,
        }
    }

    fn everything() -> Views {
        let jitter = ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 };
        let augmentation = Augmentation {
            geometry: Augment::RandomResizedCrop,
            color_jitter: Some(jitter),
            mixup: Some(0.2),
            cutmix: Some(1.0),
        };
        Views { augmentation, ..views(Augment::None) }
    }

    #[test]
    fn all_views_of_crop_and_flip_are_seen_once_by_every_sample() {
        let views = views(Augment::CropFlip);
        assert_eq!((views.distinct(), views.count(ViewCount::All).unwrap()), (Some(162), 162));
        let mut orders = HashSet::new();
        for sample in 0..5 {
            let all: Vec<_> = (0..162)
                .map(|view| views.draw(ViewKey { sample, row: 0, view }, [32, 32]))
                .collect();
            let seen: HashSet<_> =
                all.iter().map(|v| (v.crop.unwrap().top, v.crop.unwrap().left, v.flip)).collect();
            assert_eq!(seen.len(), 162);
            assert!(
                seen.iter().all(|(top, left, _)| (-4..=4).contains(top) && (-4..=4).contains(left))
            );
            orders.insert(format!("{all:?}"));
            // the next round has all of them again, in another order
            let again: HashSet<_> = (162..324)
                .map(|view| views.draw(ViewKey { sample, row: 0, view }, [32, 32]))
                .map(|v| (v.crop.unwrap().top, v.crop.unwrap().left, v.flip))
                .collect();
            assert_eq!(seen, again);
        }
        assert_eq!(orders.len(), 5, "each sample has an order of its own");
        let flips = Views {
            augmentation: Augmentation { geometry: Augment::Flip, ..Augmentation::NONE },
            ..views
        };
        let both: HashSet<bool> = (0..2)
            .map(|view| flips.draw(ViewKey { sample: 9, row: 0, view }, [32, 32]).flip)
            .collect();
        assert_eq!((flips.distinct(), both.len()), (Some(2), 2));
    }

    #[test]
    fn more_views_than_there_are_and_all_of_endless_ones_are_refused() {
        let count = |geometry, asked| views(geometry).count(asked).map_err(|e| e.chain());
        assert_eq!(count(Augment::None, ViewCount::All), Ok(1));
        assert!(count(Augment::None, ViewCount::Count(2)).unwrap_err().contains("the same"));
        assert!(
            count(Augment::CropFlip, ViewCount::Count(163))
                .unwrap_err()
                .contains("only 162 views of 32x32")
        );
        assert!(
            count(Augment::RandomResizedCrop, ViewCount::All)
                .unwrap_err()
                .contains("no finite number")
        );
        assert_eq!(count(Augment::RandomResizedCrop, ViewCount::Count(1000)), Ok(1000));
        assert_eq!(everything().count(ViewCount::Count(3)).unwrap(), 3);
        let mixed = Views {
            augmentation: Augmentation { mixup: Some(1.0), ..Augmentation::NONE },
            ..views(Augment::None)
        };
        assert_eq!(mixed.count(ViewCount::Count(300)).unwrap(), 300);
        assert!(mixed.count(ViewCount::All).is_err());
    }

    /// Parameters belong to (seed, sample, view): no other draw affects them, in any order or
    /// number.
    #[test]
    fn a_draw_depends_on_nothing_that_was_drawn_before() {
        let views = everything();
        let image = |sample: u64| [20 + usize::try_from(sample).unwrap(), 40];
        let key =
            |sample: u64, view| ViewKey { sample, row: usize::try_from(sample).unwrap(), view };
        let draw = |(sample, view)| views.draw(key(sample, view), image(sample));
        let keys: Vec<(u64, u64)> =
            (0..50).flat_map(|sample| (0..4).map(move |view| (sample, view))).collect();
        let forwards: Vec<View> = keys.iter().copied().map(draw).collect();
        let mut backwards: Vec<View> = keys.iter().rev().copied().map(draw).collect();
        backwards.reverse();
        assert_eq!(forwards, backwards);
        let threads: Vec<View> = std::thread::scope(|scope| {
            let workers: Vec<_> = keys
                .chunks(7)
                .map(|keys| scope.spawn(|| keys.iter().copied().map(draw).collect::<Vec<_>>()))
                .collect();
            workers.into_iter().flat_map(|w| w.join().unwrap()).collect()
        });
        assert_eq!(forwards, threads);
        let distinct: HashSet<String> = forwards.iter().map(|v| format!("{v:?}")).collect();
        assert_eq!(distinct.len(), forwards.len(), "no two samples or views share their draws");
        let other = Views { seed: 8, ..views.clone() };
        assert!(
            keys.iter()
                .zip(&forwards)
                .all(|(&(sample, view), v)| other.draw(key(sample, view), image(sample)) != *v)
        );
        // leaving one out affects none of the others
        let plain = Views {
            augmentation: Augmentation {
                color_jitter: None,
                mixup: None,
                cutmix: None,
                ..views.augmentation.clone()
            },
            ..views.clone()
        };
        for (&(sample, view), v) in keys.iter().zip(&forwards) {
            let drawn = plain.draw(key(sample, view), image(sample));
            assert_eq!((drawn.crop, drawn.flip), (v.crop, v.flip));
        }
    }

    #[test]
    fn a_random_crop_has_torchvisions_distribution() {
        let views = views(Augment::RandomResizedCrop);
        let image = [120, 160];
        let drawn: Vec<Crop> = (0..4000)
            .map(|sample| views.draw(ViewKey { sample, row: 0, view: 0 }, image).crop.unwrap())
            .collect();
        let mut area = 0.0;
        for &Crop { top, left, height, width } in &drawn {
            assert!(top >= 0 && left >= 0 && top + height <= 120 && left + width <= 160);
            let ratio = f64::from(width) / f64::from(height);
            assert!((0.70..1.43).contains(&ratio), "{width}x{height}");
            area += f64::from(width * height) / 19_200.0;
        }
        // it would be 0.54 if every try were taken, but the largest do not fit at all ratios:
        // torchvision's own draws have a mean of 0.435
        assert!((area / 4000.0 - 0.435).abs() < 0.012, "{}", area / 4000.0);
        // the center if no crop with such a ratio fits
        let line = views.draw(ViewKey { sample: 0, row: 0, view: 0 }, [1, 100]).crop.unwrap();
        assert_eq!(line, Crop { top: 0, left: 49, height: 1, width: 1 });
        let column = views.draw(ViewKey { sample: 0, row: 0, view: 0 }, [400, 3]).crop.unwrap();
        assert_eq!((column.width, column.height, column.top), (3, 4, 198));
    }

    #[test]
    fn partners_are_other_rows_and_mixing_takes_either_form() {
        let views = everything();
        let mixes: Vec<Mix> = (0..50)
            .flat_map(|row| (0..20).map(move |view| (row, view)))
            .map(|(row, view)| {
                let mix = views
                    .draw(ViewKey { sample: 1000 + row as u64, row, view }, [50, 60])
                    .mix
                    .unwrap();
                assert!(
                    mix.partner < 50 && mix.partner != row && (0.0..=1.0).contains(&mix.weight)
                );
                mix
            })
            .collect();
        let cuts = mixes.iter().filter(|m| m.cut.is_some()).count();
        assert!((400..600).contains(&cuts), "{cuts} of 1000");
        let partners: HashSet<usize> = mixes.iter().map(|m| m.partner).collect();
        assert_eq!(partners.len(), 50);
        let alone = Views { rows: 1, ..views };
        assert_eq!(
            alone.draw(ViewKey { sample: 0, row: 0, view: 0 }, [50, 60]).mix.unwrap().partner,
            0
        );
    }

    /// Caches contain the draws of a version of the program: they must never change.
    #[test]
    fn golden_draws() {
        let crop = |view| {
            views(Augment::CropFlip).draw(ViewKey { sample: 123_456_789, row: 0, view }, [32, 32])
        };
        let shown = |v: View| v.crop.map(|c| (c.top, c.left, v.flip));
        let drawn = everything().draw(ViewKey { sample: 3, row: 3, view: 2 }, [48, 64]);
        let mixed = everything().draw(ViewKey { sample: 4, row: 3, view: 2 }, [48, 64]);
        let found = [
            format!("{:?} {:?}", shown(crop(5)), shown(crop(6))),
            format!("{:?} {}", drawn.crop, drawn.flip),
            format!("{:?}", drawn.jitter),
            format!("{:?} {:?}", drawn.mix, mixed.mix),
        ];
        assert_eq!(found, GOLDEN);
    }
    const GOLDEN: [&str; 4] = [
        "Some((0, 0, true)) Some((0, 3, false))",
        "Some(Crop { top: 8, left: 25, height: 20, width: 15 }) false",
        "Some(Jitter { factors: [1.3886594, 1.1297303, 1.2950996, 0.09143745], order: [0, 1, 3, \
         2] })",
        "Some(Mix { partner: 2, weight: 0.859375, cut: Some(Crop { top: 0, left: 20, height: 12, \
         width: 12 }) }) Some(Mix { partner: 44, weight: 0.80859375, cut: Some(Crop { top: 18, \
         left: 7, height: 14, width: 14 }) })",
    ];
}
