//! What has gone wrong for others while copying, each row once.
