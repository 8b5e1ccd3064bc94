//! A walk through the picture data of a scan, which shows whether all of it is there. Coefficients are passed over, not decoded.
//!
//! After ITU-T T.81, F.2 (sequential) and G.1, G.2 (progressive).

use super::bits::{Bits, Huffman, Stop};
use super::frame::{Frame, Scan};

/// Huffman tables, as they stand before a scan.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) dc: [Option<Huffman>; 4],
    pub(super) ac: [Option<Huffman>; 4],
    /// Units between two restart markers; 0 for none.
    pub(super) restart_interval: u64,
}

/// What a walk has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Walked {
    /// All units are there. `used_up`: and nothing but the filling of the last byte lies before the next marker.
    Whole { at: usize, used_up: bool },
    /// Of `total` units only `done` are there.
    Short { at: usize, done: u64, total: u64 },
    /// The data is damaged or of a kind that the walk does not know.
    Unknown,
}

/// Which AC coefficients of each block are not zero, of each component: later scans of a progressive JPEG depend on that.
#[derive(Default)]
pub(super) struct NotZero(Vec<Vec<u64>>);

impl NotZero {
    fn of(&mut self, component: usize, blocks: u64) -> &mut [u64] {
        if self.0.len() <= component {
            self.0.resize_with(component + 1, Vec::new);
        }
        self.0[component].resize(blocks as usize, 0);
        &mut self.0[component]
    }
}

/// Walks through a scan whose data begins at `at`.
pub(super) fn walk(
    bytes: &[u8],
    at: usize,
    frame: &Frame,
    scan: &Scan,
    tables: &Tables,
    not_zero: &mut NotZero,
) -> Walked {
    let mut bits = Bits::new(bytes, at);
    if let [(component, dc, ac)] = scan.components[..] {
        let (across, down) = frame.blocks(component);
        let total = u64::from(across) * u64::from(down);
        let (dc, ac) = (tables.dc[dc].as_ref(), tables.ac[ac].as_ref());
        let mut run = 0;
        return match (frame.is_progressive(), scan.band.0, scan.high) {
            (false, ..) => {
                let (Some(dc), Some(ac)) = (dc, ac) else { return Walked::Unknown };
                units(&mut bits, total, tables, |bits, _, _| sequential(bits, dc, ac))
            }
            (true, 0, 0) => {
                let Some(dc) = dc else { return Walked::Unknown };
                units(&mut bits, total, tables, |bits, _, _| first_dc(bits, dc))
            }
            (true, 0, _) => units(&mut bits, total, tables, |bits, _, _| bits.take(1).map(drop)),
            (true, _, high) => {
                let Some(ac) = ac else { return Walked::Unknown };
                let blocks = not_zero.of(component, total);
                units(&mut bits, total, tables, |bits, i, restarted| {
                    run = if restarted { 0 } else { run };
                    let block = &mut blocks[i as usize];
                    if high == 0 {
                        first_ac(bits, ac, scan.band, &mut run, block)
                    } else {
                        refined_ac(bits, ac, scan.band, &mut run, block)
                    }
                })
            }
        };
    }
    let (across, down) = frame.units();
    let mut blocks = Vec::new();
    for (component, dc, ac) in &scan.components {
        let Some(c) = frame.components.get(*component) else { return Walked::Unknown };
        let (dc, ac) = (tables.dc[*dc].as_ref(), tables.ac[*ac].as_ref());
        if (dc.is_none() && scan.high == 0) || (ac.is_none() && !frame.is_progressive()) {
            return Walked::Unknown;
        }
        blocks.extend((0..c.h * c.v).map(|_| (dc, ac)));
    }
    units(&mut bits, u64::from(across) * u64::from(down), tables, |bits, _, _| {
        blocks.iter().try_for_each(|tables| match tables {
            _ if scan.high > 0 => bits.take(1).map(drop),
            (Some(dc), _) if frame.is_progressive() => first_dc(bits, dc),
            (Some(dc), Some(ac)) => sequential(bits, dc, ac),
            _ => Err(Stop::Damaged),
        })
    })
}

/// Passes over all units; `unit` gets its number, and whether it is the first after a restart.
fn units(
    bits: &mut Bits<'_>,
    total: u64,
    tables: &Tables,
    mut unit: impl FnMut(&mut Bits<'_>, u64, bool) -> Result<(), Stop>,
) -> Walked {
    let interval = tables.restart_interval;
    for done in 0..total {
        let restarts = interval > 0 && done > 0 && done % interval == 0;
        if restarts && !bits.restart() {
            return Walked::Short { at: bits.place(), done, total };
        }
        match unit(bits, done, restarts) {
            Ok(()) => {}
            // Data that ends at a restart marker is damaged in its midst.
            Err(Stop::Ends) if !bits.restart() => return Walked::Short { at: bits.place(), done, total },
            Err(_) => return Walked::Unknown,
        }
    }
    let used_up = bits.are_used_up();
    Walked::Whole { at: bits.place(), used_up }
}

/// A block of a sequential JPEG.
fn sequential(bits: &mut Bits<'_>, dc: &Huffman, ac: &Huffman) -> Result<(), Stop> {
    first_dc(bits, dc)?;
    let mut k = 1;
    while k < 64 {
        let symbol = bits.symbol(ac)?;
        match (symbol >> 4, symbol & 15) {
            (15, 0) => k += 16,
            (_, 0) => break,
            (zeros, size) => {
                bits.take(u32::from(size))?;
                k += u32::from(zeros) + 1;
            }
        }
    }
    Ok(())
}

/// The difference of a DC coefficient.
fn first_dc(bits: &mut Bits<'_>, dc: &Huffman) -> Result<(), Stop> {
    let size = u32::from(bits.symbol(dc)?);
    if size > 16 { Err(Stop::Damaged) } else { bits.take(size).map(drop) }
}

/// A block of AC coefficients that come for the first time. `run`: how many blocks without any are still to come.
fn first_ac(
    bits: &mut Bits<'_>,
    ac: &Huffman,
    (mut k, end): (usize, usize),
    run: &mut u32,
    block: &mut u64,
) -> Result<(), Stop> {
    if *run > 0 {
        *run -= 1;
        return Ok(());
    }
    while k <= end {
        let symbol = bits.symbol(ac)?;
        match (symbol >> 4, symbol & 15) {
            (15, 0) => k += 16,
            (exponent, 0) => {
                *run = (1 << exponent) - 1 + bits.take(u32::from(exponent))?;
                break;
            }
            (zeros, size) => {
                bits.take(u32::from(size))?;
                k += usize::from(zeros);
                *block |= 1u64.checked_shl(k as u32).ok_or(Stop::Damaged)?;
                k += 1;
            }
        }
    }
    Ok(())
}

/// A block of AC coefficients that get one bit more.
fn refined_ac(
    bits: &mut Bits<'_>,
    ac: &Huffman,
    (mut k, end): (usize, usize),
    run: &mut u32,
    block: &mut u64,
) -> Result<(), Stop> {
    while *run == 0 && k <= end {
        let symbol = bits.symbol(ac)?;
        let (mut zeros, size) = (symbol >> 4, symbol & 15);
        match size {
            0 if zeros < 15 => {
                *run = (1 << zeros) + bits.take(u32::from(zeros))?;
                break;
            }
            0 => {}
            // The sign of one that begins.
            _ => drop(bits.take(1)?),
        }
        while k <= end {
            if *block >> k & 1 == 1 {
                bits.take(1)?;
            } else if zeros == 0 {
                break;
            } else {
                zeros -= 1;
            }
            k += 1;
        }
        if size > 0 && k <= end {
            *block |= 1 << k;
        }
        k += 1;
    }
    if *run > 0 {
        let rest = if k <= end { u64::MAX >> (63 - end) & u64::MAX << k } else { 0 };
        for _ in 0..(*block & rest).count_ones() {
            bits.take(1)?;
        }
        *run -= 1;
    }
    Ok(())
}
