DELETE FROM intents WHERE id = :id
