use super::*;

fn read(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/data/pil/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Decodes a file of tests/data/pil and compares it with Pillow's result; returns the largest and
/// the mean difference.
fn against_pillow(name: &str, channels: usize) -> (u8, f64) {
    let image = decode(&read(name)).unwrap_or_else(|e| panic!("{name}: {}", e.chain()));
    assert_eq!((image.height, image.width, image.channels), (23, 31, channels), "{name}");
    assert_eq!(size(&read(name)).unwrap(), [23, 31]);
    let expected = read(&format!("{name}.raw"));
    assert_eq!(image.pixels.len(), expected.len(), "{name}");
    let apart = image.pixels.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b));
    let sum: u32 = apart.clone().map(u32::from).sum();
    (apart.max().unwrap(), f64::from(sum) / f64::from(u32::try_from(expected.len()).unwrap()))
}

#[test]
fn lossless_images_have_pillows_pixels() {
    for name in [
        "palette.png",
        "palette-alpha.png",
        "alpha.png",
        "palette.gif",
        "rgb.webp",
        "rgb.bmp",
        "rgb.ppm",
        "rgb-16.png",
        "cmyk.tif",
    ] {
        assert_eq!(against_pillow(name, 3).0, 0, "{name}");
    }
    for name in ["grey-alpha.png", "one-bit.png"] {
        assert_eq!(against_pillow(name, 1).0, 0, "{name}");
    }
}

#[test]
fn sixteen_bit_gray_keeps_its_high_byte() {
    // made as gray · 257 + 77, modulo 65,536
    let gray = read("grey.raw");
    let image = decode(&read("grey-16.png")).unwrap();
    let expected: Vec<u8> =
        gray.iter().map(|&g| (u16::from(g) * 257).wrapping_add(77).to_be_bytes()[0]).collect();
    assert_eq!((image.channels, image.pixels), (1, expected));
}

#[test]
fn jpegs_are_close_to_pillows() {
    for (name, channels) in [
        ("rgb-444.jpg", 3),
        ("rgb-422.jpg", 3),
        ("rgb-420.jpg", 3),
        ("progressive.jpg", 3),
        ("grey.jpg", 1),
        ("cmyk.jpg", 3),
    ] {
        let (largest, mean) = against_pillow(name, channels);
        assert!(largest <= 3 && mean < 0.5, "{name}: largest {largest}, mean {mean}");
    }
}

#[test]
fn orientation_is_read_and_not_applied() {
    // an EXIF segment that asks for a quarter turn, after the start-of-image marker
    let exif = b"\xff\xe1\x00\x22Exif\0\0II\x2a\0\x08\0\0\0\
        \x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let jpeg = read("rgb-444.jpg");
    let turned = decode(&[&jpeg[..2], exif, &jpeg[2..]].concat()).unwrap();
    let plain = decode(&jpeg).unwrap();
    assert_eq!((turned.orientation, plain.orientation), (6, 1));
    assert_eq!(turned.pixels, plain.pixels);
}

#[test]
fn what_stands_behind_a_whole_jpeg_changes_nothing() {
    for name in ["rgb-420.jpg", "progressive.jpg", "grey.jpg", "cmyk.jpg"] {
        let jpeg = read(name);
        let plain = decode(&jpeg).unwrap();
        let data = &jpeg[..jpeg.len() - 2];
        let motion = [&jpeg, b"\0\0\0\x18ftypmp42\xff\xda\0\x08".as_slice()].concat();
        for whole in [data, &[&jpeg, &jpeg[..]].concat(), &[&jpeg[..], &[0; 999]].concat(), &motion]
        {
            assert_eq!(decode(whole).unwrap(), plain, "{name}");
        }
        let cut = &jpeg[..jpeg.len() * 3 / 4];
        for closed in [&[cut, b"\xff\xd9"].concat(), &[cut, &jpeg].concat()] {
            let reason = decode(closed).unwrap_err().to_string();
            assert!(reason.contains("truncated") || reason.contains("damaged"), "{name}: {reason}");
        }
    }
}

#[test]
fn damaged_images_are_refused() {
    let fails = |bytes: &[u8], what: &str| {
        let error = decode(bytes).unwrap_err();
        assert!(error.chain().contains(what), "{what}: {}", error.chain());
    };
    fails(b"", "found other bytes");
    fails(b"hello, this is no image at all", "found other bytes");
    for name in [
        "rgb-420.jpg",
        "progressive.jpg",
        "alpha.png",
        "rgb.webp",
        "rgb.bmp",
        "rgb.ppm",
        "cmyk.tif",
        "palette.gif",
    ] {
        let bytes = read(name);
        for keep in [bytes.len() * 3 / 4, bytes.len() / 2, 20] {
            assert!(
                decode(&bytes[..keep]).is_err(),
                "{name} cut to {keep} bytes of {}",
                bytes.len()
            );
        }
    }
    fails(&read("rgb-420.jpg")[..900], "truncated");
    let mut corrupt = read("alpha.png");
    let middle = corrupt.len() / 2;
    corrupt[middle] ^= 0xff;
    fails(&corrupt, "cannot be decoded");
}

#[test]
fn a_gif_whose_first_frame_leaves_a_part_open_is_refused() {
    let gif = read("palette.gif");
    decode(&gif).unwrap();
    // the screen becomes one column wider
    let mut wider = gif.clone();
    wider[6] += 1;
    let reason = decode(&wider).unwrap_err().to_string();
    assert!(reason.contains("covers only part of its screen"), "{reason}");
    for keep in 0..gif.len().min(900) {
        let _ = fills_its_screen(&gif[..keep]);
    }
}

#[test]
fn huge_dimensions_are_refused_before_anything_is_allocated() {
    let fails = |bytes: &[u8]| {
        let error = decode(bytes).unwrap_err();
        assert!(error.chain().len() < 300, "{}", error.chain());
        assert!(size(bytes).is_err());
    };
    fails(b"P6 32000 32000 255\n");
    fails(b"P6 4000000000 4000000000 255\n");
    fails(b"P6 0 5 255\n");
    let mut png = read("alpha.png");
    png[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    fails(&png);
    let mut jpeg = read("rgb-444.jpg");
    let frame = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
    fails(&jpeg);
}

#[test]
fn damaged_bytes_never_panic() {
    for name in [
        "rgb-420.jpg",
        "progressive.jpg",
        "cmyk.jpg",
        "palette.png",
        "palette.gif",
        "rgb.webp",
        "cmyk.tif",
        "rgb.bmp",
    ] {
        let original = read(name);
        for position in (0..original.len()).step_by(3) {
            let mut bytes = original.clone();
            bytes[position] = bytes[position].wrapping_add(0x55);
            let _ = decode(&bytes);
        }
    }
}

/// `palette.png` with one more byte in its palette, and a correct checksum.
fn with_a_part_of_a_color() -> Vec<u8> {
    let png = read("palette.png");
    let at = png.windows(4).position(|w| w == b"PLTE").unwrap();
    let length = u32::from_be_bytes(png[at - 4..at].try_into().unwrap());
    let after = at + 4 + length as usize;
    let chunk = [&png[at..after], &[0]].concat();
    // CRC-32 (ISO-HDLC), bit by bit
    let crc = !chunk.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
        })
    });
    [&png[..at - 4], &(length + 1).to_be_bytes(), &chunk, &crc.to_be_bytes(), &png[after + 4..]]
        .concat()
}

#[test]
fn a_palette_with_a_part_of_a_colour_is_refused() {
    // the decoder panics on it, found by fuzzing
    let bytes = with_a_part_of_a_color();
    assert!(decode(&bytes).unwrap_err().chain().contains("palette is damaged"));
    assert!(size(&bytes).is_err());
    decode(&read("palette.png")).unwrap();
}
