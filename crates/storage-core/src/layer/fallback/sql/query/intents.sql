SELECT * FROM intents
