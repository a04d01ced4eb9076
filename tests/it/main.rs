mod sqlite_source;
