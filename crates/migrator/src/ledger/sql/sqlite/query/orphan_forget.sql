DELETE FROM orphans WHERE id = :id AND upload = :upload
