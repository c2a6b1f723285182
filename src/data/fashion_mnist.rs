//! The embedded part of Fashion-MNIST: the first 12,000 training images and the first 2,000 test
//! images (see `fashion-mnist/README.md`).

use super::memory::InMemory;
use super::{idx, is_test};
use crate::data::spec::DataFormat;
use crate::error::Result;

const TRAIN_IMAGES: &[u8] = include_bytes!("fashion-mnist/train-images-idx3-ubyte.gz");
const TRAIN_LABELS: &[u8] = include_bytes!("fashion-mnist/train-labels-idx1-ubyte.gz");
const TEST_IMAGES: &[u8] = include_bytes!("fashion-mnist/t10k-images-idx3-ubyte.gz");
const TEST_LABELS: &[u8] = include_bytes!("fashion-mnist/t10k-labels-idx1-ubyte.gz");
const CLASSES: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

/// Unpacks a split.
pub(super) fn open(split: &str) -> Result<InMemory> {
    let (images, labels) = if is_test("fashion-mnist", split)? {
        (TEST_IMAGES, TEST_LABELS)
    } else {
        (TRAIN_IMAGES, TRAIN_LABELS)
    };
    let read = |bytes: &[u8], name| idx::read_gzip(bytes, bytes.len() as u64, name);
    let (images, labels) =
        (read(images, "fashion-mnist images")?, read(labels, "fashion-mnist labels")?);
    let set = idx::join(
        DataFormat::FashionMnist,
        ("fashion-mnist images", images),
        ("fashion-mnist labels", labels),
    )?;
    Ok(InMemory { classes: CLASSES.map(String::from).to_vec(), ..set })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Dataset;

    #[test]
    fn the_subset_is_the_beginning_of_the_original() {
        let (train, test) = (open("train").unwrap(), open("test").unwrap());
        assert_eq!((train.len(), test.len()), (12_000, 2_000));
        assert_eq!(train.image_size(0), Some([28, 28]));
        assert_eq!(
            (0..10).map(|i| train.label(i)).collect::<Vec<_>>(),
            [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
        );
        assert_eq!((0..4).map(|i| test.label(i)).collect::<Vec<_>>(), [9, 2, 1, 1]);
        assert_eq!(test.classes()[9], "Ankle boot");
        let mean = train.pixels.iter().map(|&p| f64::from(p)).sum::<f64>()
            / f64::from(u8::MAX)
            / 12_000.0
            / 784.0;
        assert!((mean - 0.286).abs() < 0.002, "{mean}");
        assert_ne!(train.fingerprint(), test.fingerprint());
    }
}
