//! Both states in the SHA instructions of x86-64.

use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi32, _mm_set_epi64x,
    _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
};

use super::Block;

/// The constants of the rounds (FIPS 180-4 section 4.2.2).
#[rustfmt::skip]
const K: [[u32; 4]; 16] = [
    [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5],
    [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
    [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3],
    [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
    [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc],
    [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
    [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7],
    [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
    [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13],
    [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
    [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3],
    [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
    [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5],
    [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
    [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208],
    [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
];

/// A state as the instructions want it: (a, b, e, f) and (c, d, g, h), the first letter in the highest lane
/// ("SHA256RNDS2", Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2).
type Pair = (__m128i, __m128i);

#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
fn load(words: &[u32; 8]) -> Pair {
    let [a, b, c, d, e, f, g, h] = words.map(u32::cast_signed);
    (_mm_set_epi32(a, b, e, f), _mm_set_epi32(c, d, g, h))
}

#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
fn store((abef, cdgh): Pair, words: &mut [u32; 8]) {
    let signed = [
        _mm_extract_epi32::<3>(abef),
        _mm_extract_epi32::<2>(abef),
        _mm_extract_epi32::<3>(cdgh),
        _mm_extract_epi32::<2>(cdgh),
        _mm_extract_epi32::<1>(abef),
        _mm_extract_epi32::<0>(abef),
        _mm_extract_epi32::<1>(cdgh),
        _mm_extract_epi32::<0>(cdgh),
    ];
    *words = signed.map(i32::cast_unsigned);
}

/// Four rounds of one state.
#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
fn rounds((abef, cdgh): Pair, low: __m128i, high: __m128i) -> Pair {
    let new = _mm_sha256rnds2_epu32(cdgh, abef, low);
    (_mm_sha256rnds2_epu32(abef, new, high), new)
}

/// The next four words of the message, from the sixteen before them.
#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
fn expand(w: [__m128i; 4]) -> __m128i {
    let sum = _mm_add_epi32(_mm_sha256msg1_epu32(w[0], w[1]), _mm_alignr_epi8::<4>(w[3], w[2]));
    _mm_sha256msg2_epu32(sum, w[3])
}

#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
pub(super) fn compress_both(one: &mut [u32; 8], other: &mut [u32; 8], blocks: &[Block]) {
    // Words are big-endian.
    let swap = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let (mut x, mut y) = (load(one), load(other));
    for block in blocks {
        let (before_x, before_y) = (x, y);
        let (halves, _) = block.as_chunks::<8>();
        let half = |index: usize| i64::from_le_bytes(halves[index]);
        let mut w = [0, 1, 2, 3].map(|index| {
            let raw = _mm_set_epi64x(half(2 * index + 1), half(2 * index));
            _mm_shuffle_epi8(raw, swap)
        });
        for (index, k) in K.iter().enumerate() {
            let [k0, k1, k2, k3] = k.map(u32::cast_signed);
            let low = _mm_add_epi32(w[0], _mm_set_epi32(k3, k2, k1, k0));
            let high = _mm_shuffle_epi32::<0x0e>(low);
            x = rounds(x, low, high);
            y = rounds(y, low, high);
            w = [w[1], w[2], w[3], if index < 12 { expand(w) } else { w[0] }];
        }
        x = (_mm_add_epi32(x.0, before_x.0), _mm_add_epi32(x.1, before_x.1));
        y = (_mm_add_epi32(y.0, before_y.0), _mm_add_epi32(y.1, before_y.1));
    }
    store(x, one);
    store(y, other);
}
