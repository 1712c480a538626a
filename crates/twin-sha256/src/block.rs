//! The compression function, for one state and for two over the same blocks.

#[cfg(target_arch = "x86_64")]
mod x86;

use sha2::block_api::compress256;

/// A block of the message.
pub(crate) type Block = [u8; 64];

/// The initial hash value (FIPS 180-4 section 5.3.3).
pub(crate) const IV: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// Advances one state.
pub(crate) fn compress(state: &mut [u32; 8], blocks: &[Block]) {
    compress256(state, blocks);
}

/// Advances two states over the same blocks.
pub(crate) fn compress_both(one: &mut [u32; 8], other: &mut [u32; 8], blocks: &[Block]) {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("sha")
        && std::is_x86_feature_detected!("ssse3")
        && std::is_x86_feature_detected!("sse4.1")
    {
        #[expect(unsafe_code, reason = "the instructions are there: it was asked just now")]
        // SAFETY: the features that the function is compiled for were detected.
        unsafe {
            x86::compress_both(one, other, blocks);
        }
        return;
    }
    // Few enough to stay in the first level cache between one state and the other.
    for blocks in blocks.chunks(64) {
        compress256(one, blocks);
        compress256(other, blocks);
    }
}
