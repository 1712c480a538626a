//! What the hashes of a byte cost: one SHA-256, two one after the other, two in one pass.
//!
//! A file in one request needs one. A file in parts needs that of each part, for the signature and the server's
//! comparison, and that of the whole, for the ledger. "one" is also what a payload that is not signed would still
//! need (over TLS, with the server's CRC64NVME in place of the parts' SHA-256, which costs 30 times less): the
//! difference between "in one pass" and "one" is all that such a mode could save, at the price of a weaker proof.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use storage_core::checksum::{Digest, Hasher, PartedHasher};

fn hashing(criterion: &mut Criterion) {
    let data: Vec<u8> = (0..1u32 << 20).map(|number| number.wrapping_mul(2_654_435_761) as u8).collect();
    let mut group = criterion.benchmark_group("1 MiB");
    group.throughput(Throughput::Bytes(data.len() as u64));
    group.bench_function("one", |bencher| bencher.iter(|| Digest::of(black_box(&data))));
    group.bench_function("two, one after the other", |bencher| {
        bencher.iter(|| {
            let (mut whole, mut part) = (Hasher::new(), Hasher::new());
            for piece in black_box(&data).chunks(256 << 10) {
                whole.update(piece);
                part.update(piece);
            }
            (whole.finish(), part.finish())
        });
    });
    group.bench_function("two, in one pass", |bencher| {
        bencher.iter(|| {
            let mut both = PartedHasher::new();
            for piece in black_box(&data).chunks(256 << 10) {
                both.update(piece);
            }
            (both.finish_part(), both.finish())
        });
    });
    group.finish();
    let small = &data[..4096];
    criterion.bench_function("4 KiB, one", |bencher| bencher.iter(|| Digest::of(black_box(small))));
}

criterion_group!(benches, hashing);
criterion_main!(benches);
