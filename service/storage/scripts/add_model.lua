-- Record a model unless it is there already.
-- KEYS[1]  hash        the model: fields record, created_at
-- KEYS[2]… sorted sets of models by time of creation, in which it is listed
-- ARGV[1]  the record, JSON
-- ARGV[2]  the time, ISO 8601
-- ARGV[3]  the time, in microseconds since 1970
-- ARGV[4]  the model's id
-- Returns  {1, created_at} if it was added, {0, the created_at that was there} otherwise.
-- Invariant: an id stands in its sets if and only if its hash has a record.
local existing = redis.call('HGET', KEYS[1], 'created_at')
if existing then
  return {0, existing}
end
redis.call('HSET', KEYS[1], 'record', ARGV[1], 'created_at', ARGV[2])
for index = 2, #KEYS do
  redis.call('ZADD', KEYS[index], ARGV[3], ARGV[4])
end
return {1, ARGV[2]}
