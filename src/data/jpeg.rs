//! Finds where the picture in a JPEG file ends and whether it is complete: entropy-coded data must
//! back every block of its frame, since decoders fill what is missing with gray. The data is parsed
//! code by code (ITU-T T.81: F.2 sequential, G.2 progressive) without being decoded.

/// Where a complete picture ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// At this byte, after its end-of-image marker; later bytes belong to another picture.
    Marked(usize),
    /// At this byte, without a marker.
    Unmarked(usize),
    /// Codings that are not parsed here (arithmetic, lossless): the decoder judges.
    Unknown,
}

/// Why a picture cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Some blocks have no data.
    Truncated,
    /// The data is not valid JPEG data.
    Damaged,
}

impl Fault {
    /// The reason as a message states it.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Truncated => "the image is truncated",
            Self::Damaged => "the image data is damaged",
        }
    }
}

/// Coefficients of a block.
const BLOCK: usize = 64;
/// Huffman codes up to this many bits are looked up in a table; longer ones are searched.
const LOOKUP_BITS: u32 = 9;

/// Finds the end of the first picture in a JPEG file.
///
/// # Errors
/// If blocks of its frame have no data, or a code is not in its table.
pub(super) fn end(bytes: &[u8]) -> Result<End, Fault> {
    let mut parser = Parser::new(bytes);
    loop {
        let Some((at, marker)) = parser.next_marker() else {
            return parser.without_end(bytes.len());
        };
        match marker {
            0xd8 if parser.frame.is_none() => {}
            // another picture begins
            0xd8 => return parser.without_end(at),
            0xd9 => return parser.with_end(),
            // restart markers between scans, and the reserved marker TEM
            0xd0..=0xd7 | 0x01 => {}
            0xc4 => parser.huffman_tables()?,
            0xc0..=0xc2 => parser.start_frame(marker == 0xc2)?,
            0xdd => parser.restart_interval()?,
            0xda => {
                if !parser.scan()? {
                    return Ok(End::Unknown);
                }
            }
            // processes other than Huffman-coded DCT, and a height that follows the data
            0xc3 | 0xc5..=0xc7 | 0xc8..=0xcf | 0xdc | 0xde => return Ok(End::Unknown),
            _ => {
                parser.segment()?;
            }
        }
    }
}

/// A Huffman table (T.81, C.2 and F.2.2.3).
#[derive(Clone)]
struct HuffmanTable {
    /// Length and symbol of the short code at each bit prefix; length 0 means a longer code.
    short: Vec<(u8, u8)>,
    /// For each length, the first code that is too large, left-aligned in 16 bits.
    limits: [u32; 17],
    /// For each length, the offset from a code to its symbol.
    offsets: [i32; 17],
    symbols: Vec<u8>,
}

impl HuffmanTable {
    fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut table = Self {
            short: vec![(0, 0); 1 << LOOKUP_BITS],
            limits: [0; 17],
            offsets: [0; 17],
            symbols: symbols.to_vec(),
        };
        let (mut code, mut index) = (0u32, 0usize);
        for (length, &count) in (1u32..).zip(counts) {
            let at = usize::try_from(length).ok()?;
            table.offsets[at] = i32::try_from(index).ok()? - i32::try_from(code).ok()?;
            for _ in 0..count {
                let symbol = *symbols.get(index)?;
                if length <= LOOKUP_BITS {
                    let first = usize::try_from(code << (LOOKUP_BITS - length)).ok()?;
                    let entries =
                        table.short.get_mut(first..first + (1 << (LOOKUP_BITS - length)))?;
                    entries.fill((u8::try_from(length).ok()?, symbol));
                }
                (code, index) = (code + 1, index + 1);
            }
            if code > 1 << length {
                return None;
            }
            table.limits[at] = code << (16 - length);
            code <<= 1;
        }
        Some(table)
    }
}

/// The bits of an entropy-coded segment, up to the marker that ends it.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Left-aligned.
    buffer: u64,
    count: u32,
}

impl Bits<'_> {
    fn refill(&mut self) {
        while self.count <= 56 {
            let byte = match self.bytes.get(self.at..) {
                Some([0xff, 0, ..]) => {
                    self.at += 2;
                    0xff
                }
                Some([0xff, ..] | []) | None => return,
                Some([byte, ..]) => {
                    self.at += 1;
                    *byte
                }
            };
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    /// The next `count` bits; `count` is 0 to 16.
    fn take(&mut self, count: u32) -> Result<u32, Fault> {
        if self.count < count {
            self.refill();
            if self.count < count {
                return Err(Fault::Truncated);
            }
        }
        if count == 0 {
            return Ok(0);
        }
        let value = self.buffer >> (64 - count);
        self.buffer <<= count;
        self.count -= count;
        u32::try_from(value).map_err(|_| Fault::Damaged)
    }

    fn skip(&mut self, mut count: u32) -> Result<(), Fault> {
        while count > 0 {
            let part = count.min(16);
            self.take(part)?;
            count -= part;
        }
        Ok(())
    }

    fn symbol(&mut self, table: &HuffmanTable) -> Result<u8, Fault> {
        if self.count < 16 {
            self.refill();
        }
        let index =
            usize::try_from(self.buffer >> (64 - LOOKUP_BITS)).map_err(|_| Fault::Damaged)?;
        if let Some(&(length, symbol)) = table.short.get(index)
            && length > 0
        {
            self.take(u32::from(length))?;
            return Ok(symbol);
        }
        let code = u32::try_from(self.buffer >> 48).map_err(|_| Fault::Damaged)?;
        let Some(length) =
            (LOOKUP_BITS + 1..=16).find(|&length| code < table.limits[length as usize])
        else {
            return Err(if self.count < 16 { Fault::Truncated } else { Fault::Damaged });
        };
        let code = i32::try_from(self.take(length)?).map_err(|_| Fault::Damaged)?;
        let place =
            usize::try_from(code + table.offsets[length as usize]).map_err(|_| Fault::Damaged)?;
        table.symbols.get(place).copied().ok_or(Fault::Damaged)
    }

    /// Continues after the restart marker with this number; bytes before it are skipped.
    fn restart(&mut self, number: u8) -> Result<(), Fault> {
        (self.buffer, self.count) = (0, 0);
        while let Some(&[first, second]) = self.bytes.get(self.at..self.at.saturating_add(2)) {
            match (first, second) {
                (0xff, marker) if marker == 0xd0 + number => {
                    self.at += 2;
                    return Ok(());
                }
                // any other marker: the data before the next restart is missing
                (0xff, 0x01..=0xfe) => return Err(Fault::Truncated),
                _ => self.at += 1,
            }
        }
        Err(Fault::Truncated)
    }
}

/// A color component of the frame.
#[derive(Clone)]
struct Component {
    id: u8,
    horizontal: usize,
    vertical: usize,
    /// For each coefficient, the lowest bit read so far.
    low: [Option<u8>; BLOCK],
    /// For each block, a bit mask of the coefficients that are nonzero so far, in zigzag order.
    nonzero: Vec<u64>,
}

struct Frame {
    width: usize,
    height: usize,
    is_progressive: bool,
    components: Vec<Component>,
}

impl Frame {
    fn largest(&self, factor: impl Fn(&Component) -> usize) -> usize {
        self.components.iter().map(factor).max().unwrap_or(1)
    }

    /// `[across, down]` blocks of a component in a scan of its own.
    fn blocks(&self, component: &Component) -> [usize; 2] {
        let (across, down) = (self.largest(|c| c.horizontal), self.largest(|c| c.vertical));
        [
            (self.width * component.horizontal).div_ceil(8 * across),
            (self.height * component.vertical).div_ceil(8 * down),
        ]
    }

    /// `[across, down]` units of an interleaved scan.
    fn units(&self) -> [usize; 2] {
        [
            self.width.div_ceil(8 * self.largest(|c| c.horizontal)),
            self.height.div_ceil(8 * self.largest(|c| c.vertical)),
        ]
    }
}

/// The content of a scan header.
struct Scan {
    /// Index, DC table and AC table of each component.
    parts: Vec<(usize, usize, usize)>,
    first: usize,
    last: usize,
    high: u8,
    low: u8,
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    /// DC tables, then AC tables.
    tables: [[Option<HuffmanTable>; 4]; 2],
    interval: usize,
    frame: Option<Frame>,
}

impl<'a> Parser<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, tables: Default::default(), interval: 0, frame: None }
    }

    /// Skips to the next marker and past it; returns its offset and code.
    fn next_marker(&mut self) -> Option<(usize, u8)> {
        loop {
            let at = self.at;
            let &[first, second] = self.bytes.get(at..)?.first_chunk()?;
            self.at += 1;
            if first == 0xff && !matches!(second, 0 | 0xff) {
                self.at += 1;
                return Some((at, second));
            }
        }
    }

    /// The content of a marker's segment.
    fn segment(&mut self) -> Result<&'a [u8], Fault> {
        let length =
            self.bytes.get(self.at..).and_then(<[u8]>::first_chunk).ok_or(Fault::Truncated)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let segment = self
            .bytes
            .get(self.at..)
            .and_then(|rest| rest.get(..length))
            .ok_or(Fault::Truncated)?;
        self.at += length.max(2);
        Ok(segment.get(2..).unwrap_or_default())
    }

    fn restart_interval(&mut self) -> Result<(), Fault> {
        let interval = *self.segment()?.first_chunk().ok_or(Fault::Damaged)?;
        self.interval = usize::from(u16::from_be_bytes(interval));
        Ok(())
    }

    fn huffman_tables(&mut self) -> Result<(), Fault> {
        let mut rest = self.segment()?;
        while let Some((&[head, ref counts @ ..], after)) = rest.split_first_chunk::<17>() {
            let count = counts.iter().map(|&count| usize::from(count)).sum();
            let symbols = after.get(..count).ok_or(Fault::Damaged)?;
            let slot = self
                .tables
                .get_mut(usize::from(head >> 4))
                .and_then(|class| class.get_mut(usize::from(head & 15)));
            *slot.ok_or(Fault::Damaged)? =
                Some(HuffmanTable::new(counts, symbols).ok_or(Fault::Damaged)?);
            rest = after.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    fn start_frame(&mut self, is_progressive: bool) -> Result<(), Fault> {
        let segment = self.segment()?;
        let (&[_, h1, h0, w1, w0, count], parts) =
            segment.split_first_chunk::<6>().ok_or(Fault::Damaged)?;
        let (parts, _) = parts.as_chunks::<3>();
        let component = |&[id, sampling, _]: &[u8; 3]| Component {
            id,
            horizontal: usize::from(sampling >> 4),
            vertical: usize::from(sampling & 15),
            low: [None; BLOCK],
            nonzero: Vec::new(),
        };
        let components: Vec<_> = parts.iter().take(usize::from(count)).map(component).collect();
        let in_range = |side: usize| (1..=4).contains(&side);
        let is_sound = components.iter().all(|c| in_range(c.horizontal) && in_range(c.vertical));
        if self.frame.is_some()
            || !in_range(components.len())
            || components.len() != usize::from(count)
            || !is_sound
        {
            return Err(Fault::Damaged);
        }
        let side = |high, low| usize::from(u16::from_be_bytes([high, low]));
        self.frame =
            Some(Frame { width: side(w1, w0), height: side(h1, h0), is_progressive, components });
        Ok(())
    }

    fn scan_header(&mut self) -> Result<Scan, Fault> {
        let segment = self.segment()?;
        let frame = self.frame.as_ref().ok_or(Fault::Damaged)?;
        let components = &frame.components;
        let (&count, rest) = segment.split_first().ok_or(Fault::Damaged)?;
        let parts = rest.get(..2 * usize::from(count)).ok_or(Fault::Damaged)?;
        let &[first, last, bits] = rest
            .get(2 * usize::from(count)..)
            .and_then(<[u8]>::first_chunk)
            .ok_or(Fault::Damaged)?;
        let part = |&[id, tables]: &[u8; 2]| {
            let component = components.iter().position(|c| c.id == id)?;
            Some((component, usize::from(tables >> 4), usize::from(tables & 15)))
        };
        let parts: Vec<_> =
            parts.as_chunks().0.iter().map(part).collect::<Option<_>>().ok_or(Fault::Damaged)?;
        // these fields mean nothing in a sequential scan, and some encoders write other values
        let whole = Scan { parts, first: 0, last: BLOCK - 1, high: 0, low: 0 };
        if !frame.is_progressive {
            return if (1..=4).contains(&whole.parts.len()) {
                Ok(whole)
            } else {
                Err(Fault::Damaged)
            };
        }
        let scan = Scan {
            first: usize::from(first),
            last: usize::from(last),
            high: bits >> 4,
            low: bits & 15,
            ..whole
        };
        let is_sound =
            (1..=4).contains(&scan.parts.len()) && scan.last < BLOCK && scan.first <= scan.last;
        if is_sound { Ok(scan) } else { Err(Fault::Damaged) }
    }

    /// Parses the data of one scan; false if it cannot be parsed.
    fn scan(&mut self) -> Result<bool, Fault> {
        let scan = self.scan_header()?;
        let Some(frame) = &mut self.frame else { return Err(Fault::Damaged) };
        if frame.width == 0 || frame.height == 0 {
            return Ok(false);
        }
        let is_progressive = frame.is_progressive;
        let table = |class: usize, index: usize| {
            self.tables.get(class).and_then(|t| t.get(index)).and_then(Option::as_ref)
        };
        let needs_dc = !is_progressive || scan.first == 0 && scan.high == 0;
        let needs_ac = !is_progressive || scan.first > 0;
        let mut coders = Vec::new();
        for &(component, dc, ac) in &scan.parts {
            let (dc, ac) = (table(0, dc), table(1, ac));
            // a file without its own tables relies on tables agreed elsewhere
            if needs_dc && dc.is_none() || needs_ac && ac.is_none() {
                return Ok(false);
            }
            coders.push((component, dc, ac));
        }
        let mut bits = Bits { bytes: self.bytes, at: self.at, buffer: 0, count: 0 };
        let alone = if let [(component, ..)] = coders[..] { Some(component) } else { None };
        if is_progressive && scan.first > 0 && alone.is_none() {
            return Err(Fault::Damaged);
        }
        let [across, down] = match alone.and_then(|index| frame.components.get(index)) {
            Some(component) => frame.blocks(component),
            None => frame.units(),
        };
        let units = across.checked_mul(down).ok_or(Fault::Damaged)?;
        let mut run = 0u32;
        for unit in 0..units {
            if self.interval > 0 && unit > 0 && unit % self.interval == 0 {
                let number =
                    u8::try_from((unit / self.interval - 1) % 8).map_err(|_| Fault::Damaged)?;
                bits.restart(number)?;
                run = 0;
            }
            for &(index, dc, ac) in &coders {
                let Some(component) = frame.components.get_mut(index) else {
                    return Err(Fault::Damaged);
                };
                let blocks =
                    if alone.is_some() { 1 } else { component.horizontal * component.vertical };
                for _ in 0..blocks {
                    match (is_progressive, dc, ac) {
                        (false, Some(dc), Some(ac)) => sequential(&mut bits, dc, ac)?,
                        (true, Some(dc), _) if scan.first == 0 && scan.high == 0 => {
                            lowest(&mut bits, dc)?;
                        }
                        (true, ..) if scan.first == 0 => bits.skip(1)?,
                        (true, _, Some(ac)) => {
                            component.nonzero.resize(component.nonzero.len().max(units), 0);
                            let nonzero = component.nonzero.get_mut(unit).ok_or(Fault::Damaged)?;
                            if scan.high == 0 {
                                first_pass(&mut bits, ac, &scan, nonzero, &mut run)?;
                            } else {
                                refinement(&mut bits, ac, &scan, nonzero, &mut run)?;
                            }
                        }
                        _ => return Ok(false),
                    }
                }
            }
        }
        for &(index, ..) in &scan.parts {
            if let Some(component) = frame.components.get_mut(index) {
                component
                    .low
                    .get_mut(scan.first..=scan.last)
                    .unwrap_or_default()
                    .fill(Some(scan.low));
            }
        }
        // the last bits may still be in the buffer, but no marker is
        self.at = bits.at;
        Ok(true)
    }

    /// The picture's end at its marker.
    fn with_end(&self) -> Result<End, Fault> {
        if self.is_whole() { Ok(End::Marked(self.at)) } else { Err(Fault::Truncated) }
    }

    /// The end of the data without a marker.
    fn without_end(&self, at: usize) -> Result<End, Fault> {
        if self.is_whole() { Ok(End::Unmarked(at)) } else { Err(Fault::Truncated) }
    }

    /// Whether every component is complete. The standard lets a progressive picture leave out
    /// refinement scans; encoders do not, but truncated and closed files do.
    fn is_whole(&self) -> bool {
        let has_come = |c: &Component| c.low.iter().all(|&low| low == Some(0));
        self.frame.as_ref().is_some_and(|frame| frame.components.iter().all(has_come))
    }
}

/// The DC coefficient: its category, then that many bits (F.2.2.1).
fn lowest(bits: &mut Bits<'_>, table: &HuffmanTable) -> Result<(), Fault> {
    let category = bits.symbol(table)?;
    bits.skip(u32::from(category & 15))
}

/// A block of a sequential frame (F.2.2).
fn sequential(bits: &mut Bits<'_>, dc: &HuffmanTable, ac: &HuffmanTable) -> Result<(), Fault> {
    lowest(bits, dc)?;
    let mut at = 1;
    while at < BLOCK {
        let symbol = bits.symbol(ac)?;
        let (zeros, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        match (zeros, size) {
            (15, 0) => at += 16,
            (_, 0) => return Ok(()),
            _ => {
                bits.take(size)?;
                at += zeros + 1;
            }
        }
    }
    Ok(())
}

/// A block's part of a first pass over AC coefficients (G.1.2.2); `run` counts the blocks to come
/// that have none.
fn first_pass(
    bits: &mut Bits<'_>,
    table: &HuffmanTable,
    scan: &Scan,
    nonzero: &mut u64,
    run: &mut u32,
) -> Result<(), Fault> {
    if *run > 0 {
        *run -= 1;
        return Ok(());
    }
    let mut at = scan.first;
    while at <= scan.last {
        let symbol = bits.symbol(table)?;
        let (zeros, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        match (zeros, size) {
            (15, 0) => at += 16,
            (exponent, 0) => {
                *run = (1 << exponent) - 1 + bits.take(u32::from(symbol >> 4))?;
                return Ok(());
            }
            _ => {
                bits.take(size)?;
                at += zeros;
                *nonzero |= 1u64.checked_shl(u32::try_from(at).unwrap_or(u32::MAX)).unwrap_or(0);
                at += 1;
            }
        }
    }
    Ok(())
}

/// A block's part of a refinement (G.1.2.3): every nonzero coefficient has one more bit.
fn refinement(
    bits: &mut Bits<'_>,
    table: &HuffmanTable,
    scan: &Scan,
    nonzero: &mut u64,
    run: &mut u32,
) -> Result<(), Fault> {
    let is_nonzero = |mask: u64, at: usize| mask >> at & 1 == 1;
    let mut at = scan.first;
    while *run == 0 && at <= scan.last {
        let symbol = bits.symbol(table)?;
        let (mut zeros, size) = (symbol >> 4, symbol & 15);
        if size == 0 && zeros < 15 {
            *run = (1 << zeros) + bits.take(u32::from(zeros))?;
            break;
        }
        if size > 0 {
            bits.take(1)?;
        }
        while at <= scan.last {
            if is_nonzero(*nonzero, at) {
                bits.take(1)?;
            } else if zeros == 0 {
                break;
            } else {
                zeros -= 1;
            }
            at += 1;
        }
        if size > 0 && at < BLOCK {
            *nonzero |= 1 << at;
        }
        at += 1;
    }
    if *run > 0 {
        let rest = (at..=scan.last).filter(|&at| is_nonzero(*nonzero, at)).count();
        bits.skip(u32::try_from(rest).unwrap_or(u32::MAX))?;
        *run -= 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The JPEG files of tests/data/pil, one for each supported coding.
    const FILES: [&str; 6] =
        ["rgb-444.jpg", "rgb-422.jpg", "rgb-420.jpg", "progressive.jpg", "grey.jpg", "cmyk.jpg"];

    fn read(name: &str) -> Vec<u8> {
        std::fs::read(format!("{}/tests/data/pil/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    #[test]
    fn a_picture_ends_at_its_own_marker_whatever_follows() {
        for name in FILES {
            let picture = read(name);
            let whole = Ok(End::Marked(picture.len()));
            assert_eq!(end(&picture), whole, "{name}");
            let video = b"\0\0\0\x18ftypmp42\xff\xda\0\x0c\xff\xc4\0".as_slice();
            for tail in
                [&[0; 5000], video, &picture, &picture[..picture.len() / 2], b"\xff\xd8\xff"]
            {
                assert_eq!(
                    end(&[&picture, tail].concat()),
                    whole,
                    "{name} and {} bytes",
                    tail.len()
                );
            }
        }
    }

    #[test]
    fn a_missing_end_marker_is_no_fault() {
        for name in FILES {
            let picture = read(name);
            let data = &picture[..picture.len() - 2];
            assert_eq!(end(data), Ok(End::Unmarked(data.len())), "{name}");
            // another picture may still follow
            assert_eq!(end(&[data, &picture].concat()), Ok(End::Unmarked(data.len())), "{name}");
        }
    }

    #[test]
    fn a_picture_that_lacks_data_is_truncated_however_it_is_closed() {
        for name in FILES {
            let picture = read(name);
            // inside and after the first scan's data, except for possible padding
            let scan = picture.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap() + 14;
            for keep in (scan..picture.len() - 4).step_by(7) {
                for tail in
                    [&b""[..], b"\xff\xd9", &[&[0; 300][..], b"\xff\xd9"].concat(), &picture]
                {
                    let cut = [&picture[..keep], tail].concat();
                    // zeros may pass for data, but not for complete data of this length by chance
                    let found = end(&cut);
                    assert!(found.is_err() || tail.first() == Some(&0), "{name} {keep} {found:?}");
                }
            }
        }
    }

    #[test]
    fn damaged_bytes_never_panic() {
        for name in FILES {
            let original = read(name);
            for position in 0..original.len() {
                for change in [1, 0x55, 0xff] {
                    let mut bytes = original.clone();
                    bytes[position] = bytes[position].wrapping_add(change);
                    let _ = end(&bytes);
                    let _ = end(&bytes[..position]);
                }
            }
        }
    }
}
