SELECT source, target FROM binding
