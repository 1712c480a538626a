SELECT primary_name, secondary, primary_can, secondary_can FROM binding
