-- Forgets a channel's history, whose position stays, and tells the nodes that hold some of it.
-- KEYS  1 stream
-- ARGV  1 name of what nodes tell each other, 2 the channel
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[1], ARGV[2])
return ''
