"""Turn bytes into messages and back, exactly as the documents say."""
