SELECT source_place FROM binding
