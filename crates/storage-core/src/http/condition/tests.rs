use std::time::Duration;

use axum::http::HeaderValue;

use super::*;
use crate::id::FileId;
use crate::metadata::Version;

const DAY: u64 = 784_111_777;
const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

fn stored() -> Validators {
    let mut metadata = FileMetadata::new(FileId::parse("a").unwrap(), 10);
    metadata.version = Some(Version::new("1"));
    metadata.modified = Some(UNIX_EPOCH + Duration::from_millis(DAY * 1000 + 700));
    Validators::of(&metadata)
}

fn headers(all: &[(HeaderName, &str)]) -> HeaderMap {
    all.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
}

#[test]
fn preconditions_are_evaluated_as_rfc_9110_says() {
    use Verdict::{Failed, Go, NotModified};
    let (stored, own) = (stored(), stored().etag().unwrap());
    let weak = format!("W/{own}");
    let list = format!("\"a,b\" , W/\"x\",{own}");
    assert_eq!(stored.last_modified().as_deref(), Some(DATE));
    for (given, read, write) in [
        (vec![], Go, Go),
        (vec![(header::IF_MATCH, own.as_str())], Go, Go),
        (vec![(header::IF_MATCH, &list)], Go, Go),
        (vec![(header::IF_MATCH, "*")], Go, Go),
        (vec![(header::IF_MATCH, &weak)], Failed, Failed),
        (vec![(header::IF_MATCH, "\"x\"")], Failed, Failed),
        (vec![(header::IF_MATCH, "nonsense")], Failed, Failed),
        (vec![(header::IF_NONE_MATCH, own.as_str())], NotModified, Failed),
        (vec![(header::IF_NONE_MATCH, &weak)], NotModified, Failed),
        (vec![(header::IF_NONE_MATCH, "*")], NotModified, Failed),
        (vec![(header::IF_NONE_MATCH, "\"x\"")], Go, Go),
        (vec![(header::IF_UNMODIFIED_SINCE, DATE)], Go, Go),
        (vec![(header::IF_UNMODIFIED_SINCE, EARLIER)], Failed, Failed),
        (vec![(header::IF_UNMODIFIED_SINCE, "soon")], Go, Go),
        (vec![(header::IF_MODIFIED_SINCE, DATE)], NotModified, Go),
        (vec![(header::IF_MODIFIED_SINCE, EARLIER)], Go, Go),
        // The tag decides, where there are both.
        (vec![(header::IF_NONE_MATCH, "\"x\""), (header::IF_MODIFIED_SINCE, DATE)], Go, Go),
        (vec![(header::IF_MATCH, &own), (header::IF_UNMODIFIED_SINCE, EARLIER)], Go, Go),
        (vec![(header::IF_MATCH, &own), (header::IF_NONE_MATCH, &own)], NotModified, Failed),
    ] {
        let given = headers(&given);
        assert_eq!(evaluate(&given, Some(&stored), true), read, "{given:?}");
        assert_eq!(evaluate(&given, Some(&stored), false), write, "{given:?}");
    }
    let given = headers(&[(header::IF_MATCH, "*")]);
    assert_eq!(evaluate(&given, None, false), Verdict::Failed);
    let given = headers(&[(header::IF_NONE_MATCH, "*")]);
    assert_eq!(evaluate(&given, None, false), Verdict::Go);
}

#[test]
fn ranges_are_read_as_rfc_9110_says() {
    use Part::{All, One, Unsatisfiable};
    for (given, expected) in [
        ("bytes=0-0", One(ByteRange::Between(0, 1))),
        ("bytes=2-5", One(ByteRange::Between(2, 6))),
        ("bytes=9-", One(ByteRange::From(9))),
        ("Bytes= 2-99999999999999999999999 ", One(ByteRange::Between(2, u64::MAX))),
        ("bytes=-3", One(ByteRange::Last(3))),
        ("bytes=-30", One(ByteRange::Last(30))),
        ("bytes=10-", Unsatisfiable),
        ("bytes=10-11", Unsatisfiable),
        ("bytes=99999999999999999999999-", Unsatisfiable),
        ("bytes=-0", Unsatisfiable),
        ("bytes=5-4", All),
        ("bytes=0-1,3-4", All),
        ("bytes=-", All),
        ("bytes=a-b", All),
        ("bytes=+1-2", All),
        ("bytes=1", All),
        ("items=0-1", All),
        ("", All),
    ] {
        assert_eq!(part(&headers(&[(header::RANGE, given)]), &stored(), 10), expected, "{given}");
    }
    assert_eq!(part(&headers(&[(header::RANGE, "bytes=0-")]), &stored(), 0), Unsatisfiable);
    assert_eq!(part(&headers(&[]), &stored(), 10), All);
}

#[test]
fn a_range_of_another_version_is_the_whole_file() {
    let own = stored().etag().unwrap();
    for (condition, expected) in [
        (own.as_str(), Part::One(ByteRange::From(1))),
        (&format!("W/{own}"), Part::All),
        ("\"x\"", Part::All),
        (DATE, Part::All),
    ] {
        let given = headers(&[(header::RANGE, "bytes=1-"), (header::IF_RANGE, condition)]);
        assert_eq!(part(&given, &stored(), 10), expected, "{condition}");
    }
}
