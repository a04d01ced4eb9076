//! WALs made by hand, by the layouts in the comments of SQLite's `wal.c` and by nothing of ours.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Little,
    Big,
}

impl Order {
    pub fn of(wal: &[u8]) -> Order {
        if wal[3] & 1 == 1 { Order::Big } else { Order::Little }
    }

    pub fn other(self) -> Order {
        if self == Order::Big { Order::Little } else { Order::Big }
    }

    fn sum(self, (mut s0, mut s1): (u32, u32), data: &[u8]) -> (u32, u32) {
        let word = if self == Order::Big { u32::from_be_bytes } else { u32::from_le_bytes };
        for pair in data.chunks_exact(8) {
            s0 = s0.wrapping_add(word(pair[..4].try_into().expect("4 bytes"))).wrapping_add(s1);
            s1 = s1.wrapping_add(word(pair[4..].try_into().expect("4 bytes"))).wrapping_add(s0);
        }
        (s0, s1)
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().expect("4 bytes"))
}

fn put_sum(bytes: &mut [u8], sum: (u32, u32)) {
    bytes[..4].copy_from_slice(&sum.0.to_be_bytes());
    bytes[4..8].copy_from_slice(&sum.1.to_be_bytes());
}

/// The same WAL, every frame of which is of one life, with its checksums in another order.
pub fn turn(wal: &[u8], to: Order) -> Vec<u8> {
    let mut wal = wal.to_vec();
    let page = number(&wal[8..]) as usize;
    wal[3] = (wal[3] & !1) | u8::from(to == Order::Big);
    let mut sum = to.sum((0, 0), &wal[..24]);
    put_sum(&mut wal[24..32], sum);
    for frame in wal[32..].chunks_exact_mut(24 + page) {
        sum = to.sum(to.sum(sum, &frame[..8]), &frame[24..]);
        put_sum(&mut frame[16..24], sum);
    }
    wal
}

/// A commit frame that continues a WAL whose frames are all of one life: valid, with page 2 overwritten.
pub fn unpublished_frame(wal: &[u8]) -> Vec<u8> {
    let (order, page) = (Order::of(wal), number(&wal[8..]) as usize);
    let last = &wal[wal.len() - 24 - page..];
    let mut frame = vec![7u8; 24 + page];
    frame[..4].copy_from_slice(&2u32.to_be_bytes());
    frame[4..16].copy_from_slice(&last[4..16]);
    let before = (number(&last[16..]), number(&last[20..]));
    let sum = order.sum(order.sum(before, &frame[..8]), &frame[24..]);
    put_sum(&mut frame[16..24], sum);
    frame
}
