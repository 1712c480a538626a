SELECT clock FROM binding
