//! How a browser is to take a file: the `Content-Disposition` header of RFC 6266.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// All but `attr-char` of RFC 8187 section 3.2.1.
const ATTR_CHAR: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// Writes the header: save or show, with the name in both forms, ASCII for old browsers and RFC 8187 for all.
pub(crate) fn header(inline: bool, file_name: Option<&str>) -> String {
    let kind = if inline { "inline" } else { "attachment" };
    let Some(file_name) = file_name else { return kind.to_owned() };
    let fallback: String = file_name
        .chars()
        .map(|char| match char {
            '"' | '\\' | '/' | '%' => '_',
            ' '..='~' => char,
            _ => '_',
        })
        .collect();
    let encoded = utf8_percent_encode(file_name, ATTR_CHAR);
    format!("{kind}; filename=\"{fallback}\"; filename*=UTF-8''{encoded}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_cannot_leave_its_quotes() {
        assert_eq!(
            header(false, Some("a\"; x=\"\r\n\u{e9}.txt")),
            "attachment; filename=\"a_; x=____.txt\"; filename*=UTF-8''a%22%3B%20x%3D%22%0D%0A%C3%A9.txt"
        );
    }

    #[test]
    fn a_file_is_saved_unless_it_is_to_be_shown() {
        assert_eq!(header(false, None), "attachment");
        assert_eq!(header(true, None), "inline");
        assert_eq!(header(true, Some("a.pdf")), "inline; filename=\"a.pdf\"; filename*=UTF-8''a.pdf");
    }
}
